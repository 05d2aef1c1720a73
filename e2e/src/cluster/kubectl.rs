//! `kubectl`, the one way in which this program speaks to a cluster.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::host::env::Env;
use crate::host::shell::{Cmd, which};
use crate::nodes::network;
use crate::programs::kubernetes::Programs;

/// `kubectl` with the administrator's rights, wherever the cluster is.
///
/// # Errors
/// When there is no cluster or no kubectl.
pub fn kubectl_command(env: &Env) -> Result<Cmd> {
    if let Some(kubeconfig) = &env.kubeconfig {
        let kubectl = which("kubectl").context("KUBECONFIG is set but there is no kubectl in PATH")?;
        return Ok(Cmd::new(kubectl).env("KUBECONFIG", kubeconfig));
    }
    let namespace = network::node_ns_path(env, 1);
    ensure!(namespace.exists(), "there is no cluster: start one with `cargo e2e up`");
    let kubectl = Programs::locate(env)?.path("kubectl")?;
    let args = [format!("--net={}", namespace.display()), "--".into(), kubectl.to_string_lossy().into_owned()];
    Ok(Cmd::new("nsenter")
        .args(args)
        .env("KUBECONFIG", env.state.join("pki/admin.kubeconfig"))
        // Not in the user's home.
        .env("KUBECACHEDIR", env.state.join("kubectl-cache")))
}

/// The objects that `kubectl get` with these arguments finds.
///
/// # Errors
/// When the API server does not answer, or knows no such kind.
pub async fn list(env: &Env, args: &[&str]) -> Result<Vec<Value>> {
    let said = kubectl_command(env)?.args(["get"]).args(args).args(["--output", "json"]).output().await?;
    // kubectl calls it a List, whatever is in it.
    let list: Value = serde_json::from_str(&said).context("`kubectl get` printed no JSON")?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// Runs kubectl and returns its standard output.
///
/// # Errors
/// When it exits with anything but 0; the message quotes what it said.
pub async fn kubectl(env: &Env, args: &[&str]) -> Result<String> {
    kubectl_command(env)?.args(args).output().await
}

/// The pods that a label selector finds, without those that are being deleted.
///
/// # Errors
/// When the API server does not answer.
pub async fn pods(env: &Env, namespace: &str, selector: &str) -> Result<Vec<Value>> {
    let mut pods = list(env, &["pods", "--namespace", namespace, "--selector", selector]).await?;
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(pods)
}
