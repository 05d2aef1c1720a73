//! Waits for, and judges, the parts of a cluster: API server, nodes, DNS.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::kubectl::{kubectl_command, list};
use super::poll::poll;
use crate::host::env::Env;

/// A cluster with all its parts starts within this on a slow, busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until the API server says that it is ready.
///
/// # Errors
/// When it does not in time.
pub async fn wait_api(env: &Env) -> Result<()> {
    poll("the API server is not ready", PATIENCE, || async {
        kubectl_command(env)?.args(["get", "--raw", "/readyz"]).output().await.map(drop)
    })
    .await
}

/// Waits until `wanted` nodes are Ready.
///
/// # Errors
/// When they are not in time; names those that are not.
pub async fn wait_nodes(env: &Env, wanted: u8) -> Result<()> {
    poll("not all nodes are ready", PATIENCE, || nodes(env, wanted)).await
}

/// Waits until cluster DNS is available.
///
/// # Errors
/// When it is not in time.
pub async fn wait_dns(env: &Env) -> Result<()> {
    poll("CoreDNS is not available", PATIENCE, || dns(env)).await
}

/// Checks a cluster that should be fine; gives it a moment, as the machine may be busy.
///
/// # Errors
/// Says what is wrong.
pub async fn check(env: &Env, wanted: u8) -> Result<()> {
    poll("the cluster does not answer", Duration::from_secs(30), || async {
        nodes(env, wanted).await?;
        dns(env).await
    })
    .await
}

async fn nodes(env: &Env, wanted: u8) -> Result<()> {
    let nodes = list(env, &["nodes"]).await?;
    let (ready, waiting): (Vec<_>, Vec<_>) = nodes.into_iter().partition(is_ready);
    let names: Vec<_> = waiting.iter().filter_map(|node| node["metadata"]["name"].as_str()).collect();
    ensure!(names.is_empty(), "not ready: {}", names.join(", "));
    ensure!(ready.len() >= usize::from(wanted), "{} of {wanted} have registered", ready.len());
    Ok(())
}

/// Whether a node, or a pod, has the condition `Ready`.
#[must_use]
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

async fn dns(env: &Env) -> Result<()> {
    let found =
        list(env, &["deployments", "--namespace", "kube-system", "--field-selector", "metadata.name=coredns"]).await?;
    let coredns = found.first().context("CoreDNS is not deployed")?;
    ensure!(coredns["status"]["availableReplicas"].as_u64().unwrap_or(0) > 0, "CoreDNS has no available replica");
    Ok(())
}
