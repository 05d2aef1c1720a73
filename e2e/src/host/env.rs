//! Where things live: the checkout, the cache of programs, the state of a cluster, what tests leave behind.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest, Sha256};

/// The version of the product; images carry it as their tag.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

const DEFAULT_STATE: &str = "/var/tmp/bowline-e2e";

/// The variable that says where figures and diagnostics go.
pub const OUT: &str = "BOWLINE_OUT";

/// The variable by which a program that this one starts knows where this one is.
pub const PROGRAM: &str = "BOWLINE_E2E";

/// Every path that the harness uses, and the name that sets one cluster on a machine apart from another.
#[derive(Clone, Debug)]
pub struct Env {
    /// The checkout.
    pub root: PathBuf,
    /// Built programs, shared by all checkouts (`BOWLINE_CACHE`, else the user's cache directory).
    pub cache: PathBuf,
    /// Everything that belongs to one running cluster (`BOWLINE_STATE`). Short: it holds Unix sockets.
    pub state: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// Images and logs: always `target/e2e` of the checkout.
    pub out: PathBuf,
    /// Figures and diagnostics of tests (`BOWLINE_OUT`, else [`Self::out`]).
    pub found: PathBuf,
    /// Prefix of network namespaces and cgroups.
    pub instance: String,
    /// The command itself: PID 1 of nodes. What it starts is told by `BOWLINE_E2E`.
    pub program: PathBuf,
    /// The user's own cluster, if `KUBECONFIG` names one.
    pub kubeconfig: Option<PathBuf>,
}

impl Env {
    /// Reads the environment.
    ///
    /// # Errors
    /// When no cache directory can be determined or the state's path is too long for the sockets in it.
    pub fn from_process() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("package e2e has no parent directory")?;
        let cache = match (var("BOWLINE_CACHE"), var("XDG_CACHE_HOME"), var("HOME")) {
            (Some(own), ..) => own,
            (_, Some(xdg), _) => xdg.join("bowline"),
            (.., Some(home)) => home.join(".cache/bowline"),
            _ => anyhow::bail!("no place for built programs: set BOWLINE_CACHE or HOME"),
        };
        let state = var("BOWLINE_STATE").unwrap_or_else(|| DEFAULT_STATE.into());
        ensure!(state.is_absolute(), "BOWLINE_STATE={} is not an absolute path", state.display());
        ensure!(
            state.as_os_str().len() <= 60,
            "BOWLINE_STATE={} is too long for the Unix sockets below it (60 bytes at most)",
            state.display()
        );
        Ok(Self {
            root: root.into(),
            cache,
            instance: instance(&state),
            state,
            target: var("CARGO_TARGET_DIR").unwrap_or_else(|| root.join("target")),
            out: root.join("target/e2e"),
            found: var(OUT).unwrap_or_else(|| root.join("target/e2e")),
            program: match var(PROGRAM) {
                Some(program) => program,
                None => env::current_exe().context("cannot tell where this program is")?,
            },
            kubeconfig: var("KUBECONFIG"),
        })
    }

    /// The same environment for a second cluster beside this one.
    #[must_use]
    pub fn with_state(&self, state: PathBuf) -> Self {
        Self { instance: instance(&state), state, kubeconfig: None, ..self.clone() }
    }

    /// The file that who uses the cluster holds locked. For a cluster of this machine it depends on the cluster's state alone, not on whose
    /// home or checkout the command comes from.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        match &self.kubeconfig {
            None => Path::new("/run/lock").join(format!("{}.lock", self.instance)),
            // Not necessarily root's.
            Some(file) => {
                let file = file.canonicalize().unwrap_or_else(|_| file.clone());
                self.cache.join("locks").join(format!("kubeconfig-{}.lock", digest(&file)))
            }
        }
    }

    /// The directory of checked-in inputs of the cluster.
    #[must_use]
    pub fn inputs(&self) -> PathBuf {
        self.root.join("e2e/cluster")
    }
}

fn var(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// `bowline` for the default place, else with a digest of the state's path: two clusters never share a name.
fn instance(state: &Path) -> String {
    if state == Path::new(DEFAULT_STATE) {
        return "bowline".into();
    }
    format!("bowline-{}", digest(state))
}

/// Tells one path from another, in few letters.
fn digest(path: &Path) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_differ_by_state() {
        assert_eq!(instance(Path::new(DEFAULT_STATE)), "bowline");
        let (a, b) = (instance(Path::new("/var/tmp/a")), instance(Path::new("/var/tmp/b")));
        assert_ne!(a, b);
        assert_eq!(a.len(), "bowline-".len() + 6);
    }

    #[test]
    fn a_lock_belongs_to_a_cluster_wherever_it_is_asked_from() {
        let env = Env { kubeconfig: None, ..Env::from_process().unwrap() };
        let second = env.with_state("/var/tmp/b".into());
        assert_ne!(env.lock(), second.lock());
        let elsewhere = Env { cache: "/home/else/.cache".into(), root: "/home/else/bowline".into(), ..second.clone() };
        assert_eq!(elsewhere.lock(), second.lock());
        let own = |file: &str| Env { kubeconfig: Some(file.into()), ..env.clone() };
        assert_ne!(own("/a/config").lock(), env.lock());
        assert_ne!(own("/a/config").lock(), own("/b/config").lock());
    }
}
