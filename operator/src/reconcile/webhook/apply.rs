//! Writes the webhook's configuration to the API server.

use std::{collections::BTreeSet, sync::Arc};

use bowline_crds::Mesh;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};

use super::configuration::{self, NAME};

/// Field manager of this reconciler.
const MANAGER: &str = "bowline-webhook";

/// Writes it.
///
/// # Errors
/// That of the API server.
pub async fn apply(client: &Client, wanted: &MutatingWebhookConfiguration) -> kube::Result<()> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    api.patch(NAME, &PatchParams::apply(MANAGER).force(), &Patch::Apply(wanted)).await.map(|_| ())
}

/// Deletes it; gone is fine.
///
/// # Errors
/// That of the API server.
pub async fn delete(client: &Client) -> kube::Result<()> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    match api.delete(NAME, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        ended => ended.map(|_| ()),
    }
}

/// Takes Meshes that are about to go out of the configuration, and the configuration away with the last of them: afterwards nothing
/// that belonged to them can stop a pod. `meshes`: those that stay; see [`configuration::build`].
///
/// # Errors
/// That of the API server.
pub async fn withdraw(
    client: &Client,
    meshes: &[Arc<Mesh>],
    exempt: &BTreeSet<String>,
    namespace: &str,
) -> kube::Result<()> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let Some(seen) = api.get_opt(NAME).await? else { return Ok(()) };
    match configuration::build(meshes, exempt, namespace, &configuration::bundle(&seen)) {
        None => delete(client).await,
        Some(wanted) if configuration::is_current(&seen, &wanted) => Ok(()),
        Some(wanted) => apply(client, &wanted).await,
    }
}
