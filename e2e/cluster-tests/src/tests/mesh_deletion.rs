//! Deleting a Mesh with workloads in it is held, and says so; forced, or without workloads, everything that it made goes; the last one takes
//! the webhook's configuration with it.
//!
//! Seen to fail: a deletion that is not held makes the Mesh disappear before the condition is read; anything left behind
//! is found by name.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use bowline_crds::Mesh;
use bowline_crds::conditions::reasons;
use bowline_crds::names::{FORCE_DELETE_ANNOTATION, INJECTED_ANNOTATION, OWNER_LABEL};
use bowline_operator::reconcile::webhook::configuration;
use bowline_proxy::contract::bootstrap::TRUST_CONFIG_MAP_PREFIX;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::context::{Context, Figures};
use crate::meshed::{self, App, Caller, SOON, app};
use e2e::cluster::install::NAMESPACE;

const DOOMED: &str = "e2e-doomed";

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    meshed::delete(cx, DOOMED).await?;
    meshed::apply(cx, DOOMED, json!({ "trustDomain": "doomed.test" })).await?;
    meshed::ready(cx, DOOMED, SOON).await?;
    let ns = cx.temp_ns("e2e-doomed", Some(DOOMED)).await?;
    app::deploy(cx, &ns, &[App::new("server"), App::new("client")]).await?;
    ensure!(!traces(cx).await?.is_empty(), "a living Mesh leaves no trace: this test looks in the wrong places");

    let api = Api::<Mesh>::all(cx.client());
    api.delete(DOOMED, &DeleteParams::default()).await?;
    let message = held(cx).await?;
    ensure!(message.contains(&ns), "the condition does not name the namespace {ns}: {message}");
    ensure!(message.contains(FORCE_DELETE_ANNOTATION), "the condition does not say how to force it: {message}");
    let client = Caller::of(cx, &ns, "client").await?;
    client.get("http://server/").await?;
    // Held is not frozen: whoever starts now is still a member.
    app::deploy(cx, &ns, &[App::new("newcomer")]).await?;

    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    let start = Instant::now();
    let force = json!({ "metadata": { "annotations": { FORCE_DELETE_ANNOTATION: "true" } } });
    api.patch(DOOMED, &PatchParams::default(), &Patch::Merge(force)).await?;
    gone(cx).await?;
    let forced = start.elapsed().as_secs_f64();

    // With no workloads there is nothing to hold it.
    cx.delete_ns(&ns).await?;
    meshed::apply(cx, DOOMED, json!({ "trustDomain": "doomed.test" })).await?;
    meshed::ready(cx, DOOMED, SOON).await?;
    cx.temp_ns("e2e-doomed-empty", Some(DOOMED)).await?;
    api.delete(DOOMED, &DeleteParams::default()).await?;
    gone(cx).await?;
    if cx.env().kubeconfig.is_none() {
        last(cx).await?;
    }
    Ok(Figures::new().with("container_restarts", restarts).with("forced_seconds", (forced * 10.0).round() / 10.0))
}

/// Waits until a condition says that workloads hold the deletion; returns its message.
async fn held(cx: &Context) -> Result<String> {
    cx.eventually(SOON, "the deletion is not held with a condition", || async {
        let mesh = Api::<Mesh>::all(cx.client()).get(DOOMED).await?;
        ensure!(mesh.metadata.deletion_timestamp.is_some(), "it is not being deleted");
        let conditions = mesh.status.iter().flat_map(|s| &s.conditions);
        let found = conditions.into_iter().find(|c| c.reason == reasons::WORKLOADS_PRESENT);
        match found {
            Some(condition) => Ok(condition.message.clone()),
            None => bail!("conditions: {:?}", meshed::conditions(&mesh)),
        }
    })
    .await
}

/// Waits until the Mesh and everything that it made is gone.
async fn gone(cx: &Context) -> Result<()> {
    cx.eventually(SOON, "the Mesh or something of it stays", || async {
        let mesh = Api::<Mesh>::all(cx.client()).get_opt(DOOMED).await?;
        if let Some(mesh) = mesh {
            bail!("the Mesh is there: {:?}", meshed::conditions(&mesh));
        }
        let left = traces(cx).await?;
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        Ok(())
    })
    .await
}

/// The last Mesh takes the webhook's configuration with it, and pods start as if there had been none. Not on a cluster of the user's, whose
/// Meshes are not ours to delete.
async fn last(cx: &Context) -> Result<()> {
    let api = Api::<Mesh>::all(cx.client());
    let force = json!({ "metadata": { "annotations": { FORCE_DELETE_ANNOTATION: "true" } } });
    for mesh in api.list(&ListParams::default()).await? {
        let name = mesh.name_any();
        api.patch(&name, &PatchParams::default(), &Patch::Merge(&force)).await?;
        api.delete(&name, &DeleteParams::default()).await?;
    }
    cx.eventually(SOON, "a Mesh or the webhook's configuration stays", || async {
        let meshes = api.list(&ListParams::default()).await?.items;
        ensure!(meshes.is_empty(), "there is Mesh {}", meshes[0].name_any());
        let webhook = Api::<MutatingWebhookConfiguration>::all(cx.client()).get_opt(configuration::NAME).await?;
        ensure!(webhook.is_none(), "MutatingWebhookConfiguration {} is there", configuration::NAME);
        Ok(())
    })
    .await?;
    let ns = cx.temp_ns("e2e-doomed-after", Some(DOOMED)).await?;
    app::deploy(cx, &ns, &[App::new("plain")]).await?;
    let pods = cx.pods(&ns, "app=plain").await?;
    ensure!(pods.iter().all(|pod| pod.annotations().get(INJECTED_ANNOTATION).is_none()), "a sidecar without a Mesh");
    cx.delete_ns(&ns).await
}

/// Everything in the cluster that was made for the Mesh.
async fn traces(cx: &Context) -> Result<Vec<String>> {
    let mut found = vec![];
    let name = format!("{TRUST_CONFIG_MAP_PREFIX}{DOOMED}");
    for map in Api::<ConfigMap>::all(cx.client()).list(&ListParams::default()).await? {
        if map.name_any() == name || map.labels().get(OWNER_LABEL).is_some_and(|owner| owner == DOOMED) {
            found.push(format!("ConfigMap {}/{}", map.namespace().unwrap_or_default(), map.name_any()));
        }
    }
    for secret in Api::<Secret>::namespaced(cx.client(), NAMESPACE).list(&ListParams::default()).await? {
        for key in secret.data.iter().flatten().map(|(key, _)| key).filter(|key| key.contains(DOOMED)) {
            found.push(format!("key {key} of Secret {}", secret.name_any()));
        }
    }
    for webhooks in Api::<MutatingWebhookConfiguration>::all(cx.client()).list(&ListParams::default()).await? {
        if serde_json::to_string(&webhooks.webhooks)?.contains(DOOMED) {
            found.push(format!("MutatingWebhookConfiguration {}", webhooks.name_any()));
        }
    }
    Ok(found)
}
