//! What a test measured: numbers and short texts by name, kept as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::host::env::Env;

/// Figures of one test. Usual keys: `sent`, `failed`, `fresh_connections`, `streams_held`, `streams_lost`, `container_restarts`, `seconds`.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<String, Value>);

impl Figures {
    /// No figures yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one, replacing an earlier value.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// As [`Self::set`], for one expression.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// All, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Writes the figures of the test called `name`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, env: &Env, name: &str) -> Result<()> {
        let dir = dir(env);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads the figures called `name`; `None`: there are none.
    ///
    /// # Errors
    /// When the file is not one of figures.
    pub fn read(env: &Env, name: &str) -> Result<Option<Self>> {
        let path = dir(env).join(format!("{name}.json"));
        match std::fs::read(&path) {
            Ok(bytes) => {
                Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{} has no figures", path.display()))?))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Reads the figures of all tests that left some, by name.
    ///
    /// # Errors
    /// When a file is not one of figures.
    pub fn read_all(env: &Env) -> Result<Vec<(String, Self)>> {
        let mut all = vec![];
        for entry in std::fs::read_dir(dir(env)).into_iter().flatten().flatten() {
            let path = entry.path();
            if let (Some("json"), Some(stem)) = (path.extension().and_then(|e| e.to_str()), path.file_stem()) {
                let bytes = std::fs::read(&path)?;
                let figures =
                    serde_json::from_slice(&bytes).with_context(|| format!("{} has no figures", path.display()))?;
                all.push((stem.to_string_lossy().into_owned(), figures));
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// Names of the tests whose figures were written since then.
    ///
    /// # Errors
    /// When the file system cannot tell.
    pub fn fresh(env: &Env, since: SystemTime) -> Result<BTreeSet<String>> {
        let mut fresh = BTreeSet::new();
        for entry in std::fs::read_dir(dir(env)).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.metadata()?.modified()? >= since {
                fresh.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
        Ok(fresh)
    }
}

fn dir(env: &Env) -> PathBuf {
    env.found.join("figures")
}
