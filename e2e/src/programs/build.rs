//! Builds programs of Go modules, each module in one go: its programs share their packages, and one is linked while the next is compiled.
//!
//! One directory per module and content of its pins; a build happens beside it and is renamed into place, so a directory that exists
//! is complete. What an interrupted build had compiled is in Go's own cache.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use crate::host::env::Env;
use crate::host::lock::Lock;
use crate::host::prereq;
use crate::host::progress::{Share, about, minutes, say, step, step_with};
use crate::host::shell::Cmd;

/// A Go module with programs.
pub(super) struct Module {
    /// Below `e2e/cluster/go`.
    pub(super) dir: &'static str,
    pub(super) ldflags: &'static str,
    pub(super) programs: &'static [Program],
    /// About how many seconds it takes from nothing on two cores.
    pub(super) cold: u64,
}

/// A program and its package.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
}

/// Those modules whose directories are not there, with these.
pub(super) fn missing<'a>(env: &Env, modules: &'a [Module]) -> Result<Vec<(&'a Module, PathBuf)>> {
    let all = modules.iter().map(|module| Ok((module, module.locate(env)?)));
    Ok(all.collect::<Result<Vec<_>>>()?.into_iter().filter(|(_, dir)| !dir.is_dir()).collect())
}

/// Builds those modules whose directories are not there.
pub(super) async fn build_missing(env: &Env, modules: &[Module]) -> Result<()> {
    if missing(env, modules)?.is_empty() {
        return Ok(());
    }
    let go = prereq::for_go(env).await?;
    let _lock = Lock::take(&env.cache.join("programs.lock"), "building the cluster's programs").await?;
    // Another run may have built them meanwhile.
    let todo = missing(env, modules)?;
    let total: u64 = todo.iter().map(|(module, _)| module.cold).sum();
    say(format_args!(
        "building {} programs from {} Go modules: about {} on two cores from nothing, a minute with Go's build cache",
        todo.iter().map(|(module, _)| module.programs.len()).sum::<usize>(),
        todo.len(),
        minutes(Duration::from_secs(total))
    ));
    let packages = step("downloading their sources", packages(env, &go, &todo)).await?;
    let since = Instant::now();
    let mut done = 0;
    for (n, ((module, dir), packages)) in todo.iter().zip(packages).enumerate() {
        let names: Vec<_> = module.programs.iter().map(|program| program.name).collect();
        let title = format!("building {} (module {} of {})", names.join(", "), n + 1, todo.len());
        let compiled = AtomicUsize::new(0);
        let remark = || {
            let here = compiled.load(Ordering::Relaxed).min(packages) as f64 / packages.max(1) as f64;
            let all = (done as f64 + here * module.cold as f64) / total as f64;
            let left = Share { done: all, elapsed: since.elapsed() }.left(Duration::from_secs(total));
            Some(format!("{} of {packages} packages{}", compiled.load(Ordering::Relaxed), about(left)))
        };
        let each = |_: &str| {
            compiled.fetch_add(1, Ordering::Relaxed);
        };
        step_with(&title, remark, module.build(&go, &module.source(env), dir, each)).await?;
        done += module.cold;
    }
    Ok(())
}

/// How many packages each module's programs are made of; what must be downloaded to know is what the build needs, of all modules at once.
async fn packages(env: &Env, go: &str, modules: &[(&Module, PathBuf)]) -> Result<Vec<usize>> {
    let mut lists = JoinSet::new();
    for (n, (module, _)) in modules.iter().enumerate() {
        let packages = module.programs.iter().map(|program| program.package);
        let list = module.go(go, &module.source(env)).args(["list", "-deps", "-f", "{{.ImportPath}}"]).args(packages);
        lists.spawn(async move { list.output().await.map(|said| (n, said.lines().count())) });
    }
    let mut counts = vec![0; modules.len()];
    while let Some(listed) = lists.join_next().await {
        let (n, count) = listed??;
        counts[n] = count;
    }
    Ok(counts)
}

impl Module {
    pub(super) fn source(&self, env: &Env) -> PathBuf {
        env.inputs().join("go").join(self.dir)
    }

    /// Where its programs are or will be.
    pub(super) fn locate(&self, env: &Env) -> Result<PathBuf> {
        let digest = self.digest(&self.source(env))?;
        Ok(env.cache.join("programs").join(format!("{}-{digest}", self.dir)))
    }

    /// Identifies the content of the pins and the flags.
    fn digest(&self, source: &Path) -> Result<String> {
        let mut hash = Sha256::new();
        for file in ["go.mod", "go.sum", "main.go"] {
            let path = source.join(file);
            match std::fs::read(&path) {
                Ok(bytes) => hash.update(Sha256::digest(bytes)),
                Err(_) if file == "main.go" => {}
                Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
            }
        }
        hash.update(self.ldflags);
        self.programs.iter().for_each(|program| hash.update(program.package));
        Ok(data_encoding::HEXLOWER.encode(&hash.finalize()[..6]))
    }

    /// Go, as it is called in this module.
    fn go(&self, go: &str, source: &Path) -> Cmd {
        Cmd::new(go).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly").dir(source)
    }

    /// Builds all of its programs; `each` is called with every package that is compiled.
    async fn build(&self, go: &str, source: &Path, dir: &Path, each: impl FnMut(&str)) -> Result<()> {
        let fresh = dir.with_extension("new");
        // What an interrupted build left.
        let _ = std::fs::remove_dir_all(&fresh);
        std::fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
        let out = match self.programs {
            // A package may be called otherwise than its program.
            [program] => fresh.join(program.name),
            _ => fresh.clone(),
        };
        let build = self
            .go(go, source)
            .args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", self.ldflags, "-o"])
            .args([&out])
            .args(self.programs.iter().map(|program| program.package));
        build.follow(each).await?;
        for program in self.programs {
            let file = fresh.join(program.name);
            anyhow::ensure!(file.is_file(), "`go build` did not make {}", file.display());
        }
        std::fs::rename(&fresh, dir).with_context(|| format!("cannot rename {} into place", fresh.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_flag_is_another_directory() {
        let env = Env::from_process().unwrap();
        let source = env.inputs().join("go/etcd");
        let module = |ldflags| Module { dir: "etcd", ldflags, programs: &[], cold: 1 };
        assert_ne!(module("-s").digest(&source).unwrap(), module("-w").digest(&source).unwrap());
    }
}
