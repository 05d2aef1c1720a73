//! Other programs of this workspace, built with cargo: how many crates are done, and about how long the rest takes.

use std::collections::HashSet;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::env::Env;
use super::progress::{Share, about};
use super::shell::Cmd;

/// The cargo that runs this program, or the one in `PATH`.
#[must_use]
pub fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// What `cargo build` shall build.
#[derive(Clone, Debug)]
pub struct Build {
    /// Packages, each with the binaries wanted of it.
    pub binaries: Vec<(&'static str, &'static [&'static str])>,
    /// Further arguments: profile, target, directory.
    pub args: Vec<OsString>,
    /// Variables of the environment.
    pub env: Vec<(&'static str, String)>,
}

/// How far a build is; a clone watches the same one.
#[derive(Clone, Debug)]
pub struct Progress {
    seen: Arc<Mutex<Seen>>,
    since: Instant,
    cold: Duration,
}

#[derive(Debug, Default)]
struct Seen {
    crates: HashSet<String>,
    all: usize,
}

impl Progress {
    /// Nothing is built yet.
    #[must_use]
    pub fn new(cold: Duration) -> Self {
        Self { seen: Arc::default(), since: Instant::now(), cold }
    }

    /// `212 of 340 crates, about 3 min left`; nothing before anything is known.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let done = seen.crates.len().min(seen.all);
        if seen.all == 0 {
            return None;
        }
        // The last crates are ours, and large: by number they are nothing, in time about a third.
        let share = Share { done: done as f64 / seen.all as f64 * 0.65, elapsed: self.since.elapsed() };
        Some(format!("{done} of {} crates{}", seen.all, about(share.left(self.cold))))
    }

    fn expect(&self, all: usize) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).all = all;
    }

    /// One line of `--message-format=json`: an artifact of a crate, new or there already.
    fn read(&self, line: &str) {
        if let Some(id) = artifact(line) {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).crates.insert(id);
        }
    }
}

impl Build {
    /// Builds, and tells `progress` how far it is.
    ///
    /// # Errors
    /// When the compiler fails; the message quotes the end of what it said.
    pub async fn run(&self, env: &Env, progress: &Progress) -> Result<()> {
        progress.expect(self.count(env).await);
        let bins = self.binaries.iter().flat_map(|(_, names)| *names).flat_map(|name| ["--bin", *name]);
        // A little nicer than what else is under way: whoever waits for a cluster to start waits for its processes, not for this.
        let mut cargo = Cmd::new("nice").args(["-n", "5"]).args([program()]).args(["build", "--locked"]);
        cargo = cargo.args(["--message-format", "json-render-diagnostics"]).args(self.packages()).args(bins);
        cargo = cargo.args(&self.args).dir(&env.root);
        for (key, value) in &self.env {
            cargo = cargo.env(key, value);
        }
        cargo.follow(|line| progress.read(line)).await
    }

    fn packages(&self) -> impl Iterator<Item = &'static str> {
        self.binaries.iter().flat_map(|(package, _)| ["--package", *package])
    }

    /// How many crates there are to build; 0 when cargo does not tell, which is no reason not to build them.
    async fn count(&self, env: &Env) -> usize {
        let tree =
            Cmd::new(program()).args(["tree", "--locked", "--quiet", "--prefix", "none", "--edges", "normal,build"]);
        let said = tree.args(self.packages()).dir(&env.root).output().await.unwrap_or_default();
        count_crates(&said)
    }
}

/// The crates that `cargo tree --prefix none` names: `NAME vVERSION …`, the same one several times.
fn count_crates(tree: &str) -> usize {
    let names = tree.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?))
    });
    names.collect::<HashSet<_>>().len()
}

/// The package that a message of cargo says is built.
fn artifact(line: &str) -> Option<String> {
    let message: Value = serde_json::from_str(line).ok()?;
    (message["reason"] == "compiler-artifact").then(|| message["package_id"].as_str().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_counted_once() {
        assert_eq!(count_crates("a v1.0.0 (/x)\nb v0.2.0\nb v0.2.0 (*)\nb v0.3.0\n\n"), 3);
        let progress = Progress::new(Duration::from_secs(100));
        assert_eq!(progress.remark(), None);
        progress.expect(4);
        for line in [
            r#"{"reason":"compiler-artifact","package_id":"a","fresh":true}"#,
            r#"{"reason":"compiler-artifact","package_id":"a","fresh":false}"#,
            r#"{"reason":"build-script-executed","package_id":"b"}"#,
            "   Compiling c v1.0.0",
        ] {
            progress.read(line);
        }
        assert!(progress.remark().unwrap().starts_with("1 of 4 crates"), "{:?}", progress.remark());
    }
}
