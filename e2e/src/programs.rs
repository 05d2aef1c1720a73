//! The cluster's programs, built from pinned Go modules and kept outside the checkout.
//!
//! One directory per module and content of its pins; a build happens beside it and is renamed into place, so a directory that exists
//! is complete.

pub mod tools;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};

use crate::env::Env;
use crate::lock::Lock;
use crate::prereq;
use crate::progress::{minutes, say, step_with};
use crate::shell::Cmd;

/// A Go module with programs; `dir` is below `e2e/cluster/go`.
struct Module {
    dir: &'static str,
    ldflags: &'static str,
    programs: &'static [Program],
}

/// A program, and about how long it takes to build from nothing on two cores (seconds).
struct Program {
    name: &'static str,
    package: &'static str,
    cold: u64,
}

const fn p(name: &'static str, package: &'static str, cold: u64) -> Program {
    Program { name, package, cold }
}

const MODULES: [Module; 4] = [
    Module {
        dir: "kubernetes",
        // Without these the servers call themselves v0.0.0.
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
                  -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
        programs: &[
            p("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 400),
            p("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 94),
            p("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 7),
            p("kubelet", "k8s.io/kubernetes/cmd/kubelet", 29),
            p("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 12),
            p("kubectl", "k8s.io/kubernetes/cmd/kubectl", 35),
        ],
    },
    Module {
        dir: "containerd",
        ldflags: "-s -w -X github.com/containerd/containerd/v2/version.Version=2.4.2",
        programs: &[
            p("containerd", "github.com/containerd/containerd/v2/cmd/containerd", 76),
            p("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", 5),
            p("ctr", "github.com/containerd/containerd/v2/cmd/ctr", 5),
        ],
    },
    Module { dir: "etcd", ldflags: "-s -w", programs: &[p("etcd", "go.etcd.io/etcd/server/v3", 41)] },
    Module { dir: "coredns", ldflags: "-s -w", programs: &[p("coredns", ".", 89)] },
];

/// Where each program is.
#[derive(Clone, Debug)]
pub struct Programs {
    dirs: Vec<PathBuf>,
}

impl Programs {
    /// The full path of a program of the cluster.
    ///
    /// # Errors
    /// When no module has such a program.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let found = MODULES.iter().zip(&self.dirs).find(|(m, _)| m.programs.iter().any(|p| p.name == name));
        Ok(found.with_context(|| format!("no program is called {name}"))?.1.join(name))
    }

    /// The directories, for a `PATH`.
    #[must_use]
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Where the programs are or will be, built or not.
    ///
    /// # Errors
    /// When the pins cannot be read.
    pub fn locate(env: &Env) -> Result<Self> {
        Ok(Self { dirs: MODULES.iter().map(|module| module.locate(env)).collect::<Result<_>>()? })
    }

    /// Builds what is not in the cache.
    ///
    /// # Errors
    /// When Go is missing or a build fails.
    pub async fn build(env: &Env) -> Result<Self> {
        let this = Self::locate(env)?;
        build_missing(env, &MODULES.iter().zip(&this.dirs).collect::<Vec<_>>()).await?;
        Ok(this)
    }
}

/// Builds those modules whose directories are not there.
async fn build_missing(env: &Env, modules: &[(&Module, &PathBuf)]) -> Result<()> {
    if modules.iter().all(|(_, dir)| dir.is_dir()) {
        return Ok(());
    }
    let go = prereq::for_go(env).await?;
    let _lock = Lock::take(&env.cache.join("programs.lock"), "building the cluster's programs").await?;
    let todo: Vec<_> = modules.iter().filter(|(_, dir)| !dir.is_dir()).collect();
    let mut plan = Plan::new(todo.iter().flat_map(|(module, _)| module.programs));
    if plan.count > 0 {
        say(format_args!(
            "building {} programs from Go modules: about {} on two cores from nothing, a minute with Go's build cache",
            plan.count,
            minutes(Duration::from_secs(plan.total))
        ));
    }
    for (module, dir) in todo {
        module.build(&go, &module.source(env), dir, &mut plan).await?;
    }
    Ok(())
}

/// How far the building is.
struct Plan {
    count: usize,
    started: usize,
    total: u64,
    done: AtomicU64,
    since: Instant,
}

impl Plan {
    fn new<'a>(programs: impl Iterator<Item = &'a Program>) -> Self {
        let (count, total) = programs.fold((0, 0), |(n, sum), program| (n + 1, sum + program.cold));
        Self { count, started: 0, total, done: AtomicU64::new(0), since: Instant::now() }
    }

    /// The time left: what is left to do at the speed so far, or at the table's speed before anything is done.
    fn left(&self, within: Duration) -> Option<String> {
        let done = self.done.load(Ordering::Relaxed);
        let finished = self.since.elapsed().saturating_sub(within);
        let pace = if done == 0 { 1.0 } else { finished.as_secs_f64() / done as f64 };
        let left = Duration::from_secs_f64((self.total - done) as f64 * pace).saturating_sub(within);
        (left > Duration::ZERO).then(|| format!("about {} left", minutes(left)))
    }
}

impl Module {
    fn source(&self, env: &Env) -> PathBuf {
        env.inputs().join("go").join(self.dir)
    }

    /// Where its programs are or will be.
    fn locate(&self, env: &Env) -> Result<PathBuf> {
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

    async fn build(&self, go: &str, source: &Path, dir: &Path, plan: &mut Plan) -> Result<()> {
        let fresh = dir.with_extension("new");
        // What an interrupted build left.
        let _ = std::fs::remove_dir_all(&fresh);
        std::fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
        for program in self.programs {
            plan.started += 1;
            let title = format!("[{}/{}] building {}", plan.started, plan.count, program.name);
            let begun = Instant::now();
            let build = Cmd::new(go)
                .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", self.ldflags, "-o"])
                .args([fresh.join(program.name).as_os_str(), program.package.as_ref()])
                .env("CGO_ENABLED", "0")
                .env("GOFLAGS", "-mod=readonly")
                .dir(source);
            step_with(&title, || plan.left(begun.elapsed()), build.output()).await?;
            plan.done.fetch_add(program.cold, Ordering::Relaxed);
        }
        std::fs::rename(&fresh, dir).with_context(|| format!("cannot rename {} into place", fresh.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_checked_in() {
        let env = Env::from_process().unwrap();
        let programs = Programs::locate(&env).unwrap();
        assert!(programs.path("kubelet").unwrap().ends_with("kubelet"));
        assert!(programs.path("nonsense").is_err());
    }

    #[test]
    fn a_changed_flag_is_another_directory() {
        let env = Env::from_process().unwrap();
        let source = env.inputs().join("go/etcd");
        let module = |ldflags| Module { dir: "etcd", ldflags, programs: &[] };
        assert_ne!(module("-s").digest(&source).unwrap(), module("-w").digest(&source).unwrap());
    }
}
