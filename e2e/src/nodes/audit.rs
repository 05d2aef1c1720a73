//! The API server's record of what the operator asked it for: metadata only, in the cluster's state, and bounded.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::host::env::Env;

const POLICY: &str = include_str!("../../cluster/audit-policy.yaml");
/// Most megabytes of one file, and most files that are kept beside the one that is written. A run of all tests leaves a tenth.
const MEGABYTES: u32 = 64;
const KEPT: u32 = 3;

fn dir(state: &Path) -> PathBuf {
    state.join("audit")
}

fn log(state: &Path) -> PathBuf {
    dir(state).join("audit.log")
}

/// Writes what the API server reads.
///
/// # Errors
/// When a file cannot be written.
pub fn prepare(state: &Path) -> Result<()> {
    let dir = dir(state);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    std::fs::write(dir.join("policy.yaml"), POLICY).context("cannot write the audit policy")
}

/// Flags of the API server.
#[must_use]
pub fn flags(state: &Path) -> [String; 4] {
    [
        format!("--audit-policy-file={}", dir(state).join("policy.yaml").display()),
        format!("--audit-log-path={}", log(state).display()),
        format!("--audit-log-maxsize={MEGABYTES}"),
        format!("--audit-log-maxbackup={KEPT}"),
    ]
}

/// One call, with as little as tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Who called.
    pub user: String,
    /// API group; empty: core.
    pub group: String,
    /// Resource, with its subresource.
    pub resource: String,
    /// Namespace; empty: none.
    pub namespace: String,
    /// Name; empty: none.
    pub name: String,
    /// Verb, as RBAC has it.
    pub verb: String,
    /// Whether RBAC allowed it.
    pub allowed: bool,
    /// Whether it made the object.
    pub created: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    response_status: Status,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    #[serde(rename = "requestURI")]
    uri: String,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Object {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    api_group: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

/// Every different call since the cluster is up, and since when they are recorded.
///
/// # Errors
/// When there is no record: the cluster is a user's, or was brought up by an older version.
pub fn read(env: &Env) -> Result<(BTreeSet<Call>, SystemTime)> {
    let dir = dir(&env.state);
    let policy = std::fs::metadata(dir.join("policy.yaml"))
        .context("no audit log: only the throw-away cluster has one, and one of an older version is to be taken down first (cargo e2e down)")?;
    let mut calls = BTreeSet::new();
    for entry in std::fs::read_dir(&dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "log") {
            continue;
        }
        let file = std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for line in BufReader::new(file).lines() {
            // The last line may be half written.
            if let Ok(event) = serde_json::from_str::<Event>(&line?) {
                calls.insert(call(event));
            }
        }
    }
    Ok((calls, policy.modified()?))
}

fn call(event: Event) -> Call {
    let Object { mut resource, subresource, namespace, name, api_group } = event.object_ref;
    if resource.is_empty() {
        resource = event.uri;
    } else if !subresource.is_empty() {
        resource = format!("{resource}/{subresource}");
    }
    Call {
        user: event.user.username,
        group: api_group,
        resource,
        namespace,
        name,
        verb: event.verb,
        allowed: event.annotations.get("authorization.k8s.io/decision").is_none_or(|d| d != "forbid"),
        created: event.response_status.code == 201,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_one_call() {
        let line = r#"{"kind":"Event","verb":"patch","stage":"ResponseComplete","requestURI":"/apis/x",
            "user":{"username":"system:serviceaccount:a:b","groups":[]},"responseStatus":{"metadata":{},"code":201},
            "objectRef":{"resource":"meshes","subresource":"status","name":"default","apiGroup":"bowline.dev","apiVersion":"v1alpha1"},
            "annotations":{"authorization.k8s.io/decision":"allow"}}"#;
        let call = call(serde_json::from_str(line).unwrap());
        assert_eq!((call.group.as_str(), call.resource.as_str()), ("bowline.dev", "meshes/status"));
        assert_eq!((call.name.as_str(), call.namespace.as_str()), ("default", ""));
        assert!(call.allowed && call.created);
    }
}
