//! Installs the operator as a user does: `kubectl apply -k config/default`.

use anyhow::Result;

use crate::cluster::kubectl_command;
use crate::env::Env;
use crate::progress::step;

/// The operator's namespace and the name of its Deployment.
pub const NAMESPACE: &str = "bowline-system";
const DEPLOYMENT: &str = "deployment/bowline-operator";

/// Applies the manifests and waits for the Deployment's rollout. Applying again changes nothing.
///
/// # Errors
/// When the API server refuses something, or the operator does not become available within two minutes.
pub async fn install(env: &Env) -> Result<()> {
    let manifests = env.root.join("config/default");
    step("installing the operator", async {
        kubectl_command(env)?.args(["apply", "-k"]).args([&manifests]).output().await?;
        let rollout = ["rollout", "status", DEPLOYMENT, "--namespace", NAMESPACE, "--timeout=120s"];
        kubectl_command(env)?.args(rollout).output().await
    })
    .await?;
    Ok(())
}
