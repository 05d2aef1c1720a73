//! The programs that a cluster is made of: Kubernetes, containerd, etcd and CoreDNS.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::build::{Module, Program, build_missing, missing};
use crate::host::env::Env;

const fn p(name: &'static str, package: &'static str) -> Program {
    Program { name, package }
}

const MODULES: [Module; 4] = [
    Module {
        dir: "kubernetes",
        // Without these the servers call themselves v0.0.0.
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
                  -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
        programs: &[
            p("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            p("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            p("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            p("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            p("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            p("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
        cold: 560,
    },
    Module {
        dir: "containerd",
        ldflags: "-s -w -X github.com/containerd/containerd/v2/version.Version=2.4.2",
        programs: &[
            p("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            p("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
            p("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
        cold: 85,
    },
    Module { dir: "etcd", ldflags: "-s -w", programs: &[p("etcd", "go.etcd.io/etcd/server/v3")], cold: 40 },
    Module { dir: "coredns", ldflags: "-s -w", programs: &[p("coredns", ".")], cold: 85 },
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

    /// What building them takes on two cores, when nothing is in Go's cache; zero when they are there.
    ///
    /// # Errors
    /// When the pins cannot be read.
    pub fn takes(env: &Env) -> Result<Duration> {
        Ok(missing(env, &MODULES)?.iter().map(|(module, _)| Duration::from_secs(module.cold)).sum())
    }

    /// Builds what is not in the cache.
    ///
    /// # Errors
    /// When Go is missing or a build fails.
    pub async fn build(env: &Env) -> Result<Self> {
        let this = Self::locate(env)?;
        build_missing(env, &MODULES).await?;
        Ok(this)
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
}
