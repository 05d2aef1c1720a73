//! Installs the operator as a user does: `kubectl apply -k config/default`.

use anyhow::Result;

use super::kubectl::{kubectl_command, list};
use crate::host::env::Env;
use crate::host::progress::step;
use crate::images::load;

/// The operator's namespace and the name of its Deployment.
pub const NAMESPACE: &str = "bowline-system";
const DEPLOYMENT: &str = "deployment/bowline-operator";
const SELECTOR: &str = "app.kubernetes.io/name=bowline-operator";

/// Applies the manifests and waits for the Deployment's rollout. Applying again changes nothing, unless the image was built anew.
///
/// # Errors
/// When the API server refuses something, or the operator does not become available within two minutes.
pub async fn install(env: &Env) -> Result<()> {
    let manifests = env.root.join("config/default");
    step("installing the operator", async {
        kubectl_command(env)?.args(["apply", "-k"]).args([&manifests]).output().await?;
        if stale(env).await? {
            // The image's name did not change, so the Deployment did not either.
            let restart = ["rollout", "restart", DEPLOYMENT, "--namespace", NAMESPACE];
            kubectl_command(env)?.args(restart).output().await?;
        }
        let rollout = ["rollout", "status", DEPLOYMENT, "--namespace", NAMESPACE, "--timeout=120s"];
        kubectl_command(env)?.args(rollout).output().await
    })
    .await?;
    Ok(())
}

/// Whether a pod of the operator runs another image than the one of that name on the nodes.
async fn stale(env: &Env) -> Result<bool> {
    let pods = list(env, &["pods", "--namespace", NAMESPACE, "--selector", SELECTOR]).await?;
    Ok(pods.iter().any(|pod| load::is_outdated(env, pod)))
}
