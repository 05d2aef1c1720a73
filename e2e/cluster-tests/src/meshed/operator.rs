//! The operator as an object of tests: its pods, its leader, killed and scaled.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;

use super::process;
use super::shared::SOON;
use crate::context::Context;
use e2e::cluster::install::NAMESPACE;

/// Name of Deployment, ServiceAccount and Lease.
pub const NAME: &str = "bowline-operator";
/// Finds its pods.
pub const SELECTOR: &str = "app.kubernetes.io/name=bowline-operator";
/// Replicas as shipped.
pub const REPLICAS: i32 = 2;

/// Makes sure that the operator runs with all its replicas, whatever an earlier test left.
///
/// # Errors
/// When it does not become available.
pub async fn ensure(cx: &Context) -> Result<()> {
    let api = Api::<Deployment>::namespaced(cx.client(), NAMESPACE);
    let deployment = api.get(NAME).await.context("the operator is not installed: run `cargo e2e install`")?;
    if deployment.spec.and_then(|s| s.replicas) != Some(REPLICAS) {
        scale(cx, REPLICAS).await?;
    }
    cx.rolled_out(NAMESPACE, &format!("deployment/{NAME}"), 2 * SOON).await
}

/// The operator's process in a pod as this machine sees it; none on a cluster that is not of this machine.
///
/// # Errors
/// When the container does not run.
pub fn process(pod: &Pod) -> Result<Option<Pid>> {
    let mut statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let status = statuses.next().context("the operator's container has no status")?;
    Ok(process::of(status)?.first().copied())
}

/// Makes a pod disappear as if its node had: its process is frozen, so that it cannot say goodbye, and then killed.
///
/// # Errors
/// When the API server refuses.
pub async fn crash(cx: &Context, pod: &str) -> Result<()> {
    let found = Api::<Pod>::namespaced(cx.client(), NAMESPACE).get(pod).await?;
    if let Some(pid) = process(&found)? {
        kill_process(pid, Signal::STOP)?;
    }
    kill(cx, pod).await
}

/// Sets the number of replicas.
///
/// # Errors
/// When the API server refuses.
pub async fn scale(cx: &Context, replicas: i32) -> Result<()> {
    let api = Api::<Deployment>::namespaced(cx.client(), NAMESPACE);
    let scale = json!({ "spec": { "replicas": replicas } });
    api.patch_scale(NAME, &PatchParams::default(), &Patch::Merge(scale)).await?;
    Ok(())
}

/// Its pods.
///
/// # Errors
/// When the API server does not answer.
pub async fn pods(cx: &Context) -> Result<Vec<Pod>> {
    cx.pods(NAMESPACE, SELECTOR).await
}

/// Kills a pod at once, without a chance to say goodbye.
///
/// # Errors
/// When the API server refuses.
pub async fn kill(cx: &Context, pod: &str) -> Result<()> {
    let api = Api::<Pod>::namespaced(cx.client(), NAMESPACE);
    api.delete(pod, &DeleteParams::default().grace_period(0)).await.map(drop).context("cannot kill the operator's pod")
}

/// Kills every replica and lets none come back; waits until none is left, nor a process of one: a replica that is told to end serves on for
/// some seconds, and remembers.
///
/// # Errors
/// When a pod or its process stays.
pub async fn remove(cx: &Context) -> Result<()> {
    let mut processes = vec![];
    for pod in pods(cx).await? {
        // One that has not started has none.
        processes.extend(process(&pod).ok().flatten());
    }
    scale(cx, 0).await?;
    let api = Api::<Pod>::namespaced(cx.client(), NAMESPACE);
    let gone = || async {
        let list = api.list(&kube::api::ListParams::default().labels(SELECTOR)).await?;
        for pod in &list.items {
            kill(cx, &crate::context::pods::name(pod)).await?;
        }
        ensure!(list.items.is_empty(), "{} pods are left", list.items.len());
        let running = processes.iter().filter(|pid| test_kill_process(**pid).is_ok()).count();
        ensure!(running == 0, "{running} processes are left");
        Ok(())
    };
    cx.eventually(SOON, "the operator does not go", gone).await
}

/// Who leads now, and for how long its Lease lasts.
///
/// # Errors
/// When nobody does.
pub async fn leader(cx: &Context) -> Result<(String, Duration)> {
    let lease = Api::<Lease>::namespaced(cx.client(), NAMESPACE).get(NAME).await?;
    let spec = lease.spec.context("the Lease is empty")?;
    let holder = spec.holder_identity.filter(|holder| !holder.is_empty()).context("nobody holds the Lease")?;
    let seconds = spec.lease_duration_seconds.context("the Lease has no duration")?;
    Ok((holder, Duration::from_secs(u64::try_from(seconds)?)))
}
