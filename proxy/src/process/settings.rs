//! What the injector set in this sidecar's environment, read once and checked.

use std::{path::PathBuf, time::Duration};

use crate::{
    contract::{
        bootstrap::{MAX_DEFAULT_WORKERS, env, paths},
        probe::Probe,
    },
    identity::mount::Mounts,
};

/// Overrides of mounted paths and ports, for tests without a pod.
pub mod test_env {
    /// Instead of [`crate::contract::bootstrap::paths::SLOTS_DIR`].
    pub const SLOTS_DIR: &str = "BOWLINE_SLOTS_DIR";
    /// Instead of [`crate::contract::bootstrap::paths::TRUST_DIR`].
    pub const TRUST_DIR: &str = "BOWLINE_TRUST_DIR";
    /// Instead of [`crate::contract::bootstrap::paths::TOKEN`].
    pub const TOKEN_FILE: &str = "BOWLINE_TOKEN_FILE";
    /// The one address to listen on, e.g. one of 127.0.0.0/8, instead of loopback and all addresses of the pod.
    pub const BIND: &str = "BOWLINE_BIND_ADDRESS";
}

/// Default of [`env::DRAIN_SECONDS`].
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(25);
/// Most worker threads that can be asked for.
const MAX_WORKERS: usize = 64;

/// The environment cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("environment variable {name} {problem}; the injector sets it: was the pod's sidecar edited?")]
pub struct SettingsError {
    /// Which.
    pub name: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// See [`env`](mod@env).
#[derive(Debug, Clone)]
pub struct Settings {
    /// `a` or `b`.
    pub slot: String,
    /// Name of the pod.
    pub pod: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// UID of the pod.
    pub uid: String,
    /// Address of the pod.
    pub ip: std::net::IpAddr,
    /// Name of the pod's node; empty: unknown.
    pub node: String,
    /// Topology zone of the pod's node; empty: unknown.
    pub zone: String,
    /// Service account of the pod.
    pub service_account: String,
    /// Name of the workload.
    pub workload: String,
    /// How long what is in flight may take to end.
    pub drain: Duration,
    /// Worker threads.
    pub workers: usize,
    /// Probes to carry out.
    pub probes: Vec<Probe>,
    /// Mounted files.
    pub mounts: Mounts,
    /// See [`test_env::BIND`].
    pub bind: Option<std::net::IpAddr>,
}

/// Where the two slots agree; read apart from the rest, because a standby needs nothing else.
#[must_use]
pub fn slots_dir(var: impl Fn(&str) -> Option<String>) -> PathBuf {
    var(test_env::SLOTS_DIR).unwrap_or_else(|| paths::SLOTS_DIR.to_owned()).into()
}

impl Settings {
    /// Reads them with `var`, which is [`std::env::var`] outside tests.
    ///
    /// # Errors
    /// Names the variable that is missing or malformed.
    pub fn read(var: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let must = |name| var(name).filter(|v| !v.is_empty()).ok_or_else(|| wrong(name, "is not set"));
        let ip = must(env::POD_IP)?;
        let pod = must(env::POD_NAME)?;
        Ok(Self {
            slot: must(env::SLOT)?,
            namespace: must(env::POD_NAMESPACE)?,
            uid: var(env::POD_UID).unwrap_or_default(),
            ip: ip.parse().map_err(|_| wrong(env::POD_IP, format!("is no IP address: {ip:?}")))?,
            // Injectors of earlier versions do not tell.
            node: var(env::NODE_NAME).unwrap_or_default(),
            zone: var(env::ZONE).unwrap_or_default(),
            service_account: must(env::SERVICE_ACCOUNT)?,
            workload: var(env::WORKLOAD).filter(|w| !w.is_empty()).unwrap_or_else(|| pod.clone()),
            drain: number(&var, env::DRAIN_SECONDS)?.map_or(DEFAULT_DRAIN, Duration::from_secs),
            workers: workers(number(&var, env::WORKERS)?),
            probes: match var(env::PROBES).filter(|p| !p.is_empty()) {
                Some(text) => {
                    serde_json::from_str(&text).map_err(|e| wrong(env::PROBES, format!("is malformed: {e}")))?
                }
                None => Vec::new(),
            },
            mounts: mounts(&var),
            bind: var(test_env::BIND).and_then(|a| a.parse().ok()),
            pod,
        })
    }
}

fn mounts(var: &impl Fn(&str) -> Option<String>) -> Mounts {
    let default = Mounts::default();
    Mounts {
        trust: var(test_env::TRUST_DIR).map_or(default.trust, PathBuf::from),
        token: var(test_env::TOKEN_FILE).map_or(default.token, PathBuf::from),
    }
}

fn number(var: &impl Fn(&str) -> Option<String>, name: &'static str) -> Result<Option<u64>, SettingsError> {
    let Some(text) = var(name).filter(|v| !v.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| wrong(name, format!("is no number: {text:?}")))
}

fn workers(asked: Option<u64>) -> usize {
    let given = std::thread::available_parallelism().map_or(1, usize::from);
    let asked = asked.map(|n| usize::try_from(n).unwrap_or(MAX_WORKERS));
    asked.unwrap_or(given.min(MAX_DEFAULT_WORKERS)).clamp(1, MAX_WORKERS)
}

fn wrong(name: &'static str, problem: impl Into<String>) -> SettingsError {
    SettingsError { name, problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(name: &str) -> Option<String> {
        let value = match name {
            env::SLOT => "a",
            env::POD_NAME => "web-1",
            env::POD_NAMESPACE => "shop",
            env::POD_UID => "u",
            env::POD_IP => "10.0.0.7",
            env::SERVICE_ACCOUNT => "web",
            _ => return None,
        };
        Some(value.into())
    }

    #[test]
    fn defaults_fill_what_is_not_said() {
        let s = Settings::read(given).unwrap();
        assert_eq!((s.drain, s.workload.as_str()), (DEFAULT_DRAIN, "web-1"));
        assert!((1..=MAX_DEFAULT_WORKERS).contains(&s.workers));
        assert_eq!(s.mounts.token, PathBuf::from(paths::TOKEN));
        assert_eq!(slots_dir(given), PathBuf::from(paths::SLOTS_DIR));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            (env::POD_IP, "10.0.0"),
            (env::SERVICE_ACCOUNT, ""),
            (env::DRAIN_SECONDS, "soon"),
            (env::WORKERS, "-1"),
            (env::PROBES, "[{}]"),
        ] {
            let var = |n: &str| if n == name { Some(value.to_owned()) } else { given(n) };
            assert_eq!(Settings::read(var).unwrap_err().name, name);
        }
    }

    #[test]
    fn where_the_pod_is_may_be_told() {
        let unknown = Settings::read(given).unwrap();
        assert_eq!((unknown.node.as_str(), unknown.zone.as_str()), ("", ""));
        let var = |n: &str| match n {
            env::NODE_NAME => Some("node-1".to_owned()),
            env::ZONE => Some("x".to_owned()),
            _ => given(n),
        };
        let told = Settings::read(var).unwrap();
        assert_eq!((told.node.as_str(), told.zone.as_str()), ("node-1", "x"));
    }

    #[test]
    fn workers_are_bounded() {
        assert_eq!((workers(Some(0)), workers(Some(3)), workers(Some(u64::MAX))), (1, 3, MAX_WORKERS));
    }
}
