//! Meshes: applied, waited for, deleted, and what their conditions say.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bowline_crds::Mesh;
use bowline_crds::mesh::MtlsMode;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::operator;
use super::shared::{MESH, SOON};
use crate::context::Context;

/// Makes sure that the shared Mesh is there, Strict and Ready, whatever an earlier test left.
///
/// # Errors
/// When it does not become Ready.
pub async fn ensure(cx: &Context) -> Result<()> {
    operator::ensure(cx).await?;
    let api = Api::<Mesh>::all(cx.client());
    match api.get_opt(MESH).await? {
        Some(mesh) if mesh.spec.mtls.mode == MtlsMode::Strict => {}
        _ => drop(apply(cx, MESH, json!({ "mtls": { "mode": "Strict" } })).await?),
    }
    ready(cx, MESH, SOON).await.map(drop)
}

/// Applies a Mesh with `spec`, server-side, taking every field that anybody else has set.
///
/// # Errors
/// When the API server refuses it; the message quotes why.
pub async fn apply(cx: &Context, name: &str, spec: Value) -> Result<Mesh> {
    let mesh =
        json!({ "apiVersion": "bowline.dev/v1alpha1", "kind": "Mesh", "metadata": { "name": name }, "spec": spec });
    let params = PatchParams::apply("bowline-e2e").force();
    let applied = Api::<Mesh>::all(cx.client()).patch(name, &params, &Patch::Apply(mesh)).await;
    applied.with_context(|| format!("cannot apply Mesh {name}"))
}

/// Waits until a Mesh is Ready in its present generation.
///
/// # Errors
/// After `limit`; quotes its conditions.
pub async fn ready(cx: &Context, name: &str, limit: Duration) -> Result<Mesh> {
    cx.eventually(limit, &format!("Mesh {name} did not become Ready"), || async {
        let mesh = Api::<Mesh>::all(cx.client()).get(name).await?;
        let status = mesh.status.clone().unwrap_or_default();
        ensure!(status.observed_generation == mesh.metadata.generation, "its status is of an older generation");
        ensure!(condition(&mesh, "Ready").is_some_and(|(is, _)| is == "True"), "conditions: {:?}", conditions(&mesh));
        Ok(mesh)
    })
    .await
}

/// Status and reason of a condition.
#[must_use]
pub fn condition(mesh: &Mesh, kind: &str) -> Option<(String, String)> {
    let conditions = &mesh.status.as_ref()?.conditions;
    conditions.iter().find(|c| c.type_ == kind).map(|c| (c.status.clone(), c.reason.clone()))
}

/// All conditions in short, for messages.
#[must_use]
pub fn conditions(mesh: &Mesh) -> Vec<String> {
    let conditions = mesh.status.iter().flat_map(|s| &s.conditions);
    conditions.map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message)).collect()
}

/// Waits until a Mesh has a condition of the given status and reason; returns the condition's message.
///
/// # Errors
/// After `limit`; quotes the conditions that it has.
pub async fn await_reason(cx: &Context, name: &str, kind: &str, status: &str, reason: &str) -> Result<String> {
    cx.eventually(SOON, &format!("Mesh {name} does not say {kind}={status} {reason}"), || async {
        let mesh = Api::<Mesh>::all(cx.client()).get(name).await?;
        let all = mesh.status.iter().flat_map(|s| &s.conditions);
        let mut found = all.filter(|c| c.type_ == kind && c.status == status && c.reason == reason);
        found.next().map(|c| c.message.clone()).with_context(|| format!("conditions: {:?}", conditions(&mesh)))
    })
    .await
}

/// Changes the mode of the shared Mesh.
///
/// # Errors
/// When the Mesh does not become Ready with it.
pub async fn set_mode(cx: &Context, mode: MtlsMode) -> Result<()> {
    apply(cx, MESH, json!({ "mtls": { "mode": mode } })).await?;
    ready(cx, MESH, SOON).await.map(drop)
}

/// Deletes a Mesh of a test's own whatever is in it, and waits until it is gone.
///
/// # Errors
/// When it stays.
pub async fn delete(cx: &Context, name: &str) -> Result<()> {
    let api = Api::<Mesh>::all(cx.client());
    if api.get_opt(name).await?.is_none() {
        return Ok(());
    }
    let force = json!({ "metadata": { "annotations": { bowline_crds::names::FORCE_DELETE_ANNOTATION: "true" } } });
    let _ = api.patch(name, &PatchParams::default(), &Patch::Merge(force)).await;
    let _ = api.delete(name, &Default::default()).await;
    cx.eventually(SOON, &format!("Mesh {name} does not go"), || async {
        match api.get_opt(name).await? {
            None => Ok(()),
            Some(mesh) => anyhow::bail!("finalizers {:?}, conditions {:?}", mesh.finalizers(), conditions(&mesh)),
        }
    })
    .await
}
