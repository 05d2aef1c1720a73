//! Writes to the API server: server-side apply with one field manager, deletions, the finalizer, status and events.

use bowline_crds::{Mesh, MeshStatus, names::FINALIZER};
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::events::{Event, EventType, Recorder},
};
use serde_json::json;

use super::{
    build::{Change, Plan},
    news::News,
};

/// Field manager of this reconciler.
pub const MANAGER: &str = "bowline-mesh";
/// Writes at the same time.
const CONCURRENCY: usize = 8;

/// What was written when and why it failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused or did not answer.
    #[error("{object}: {error}")]
    Api {
        /// Kind, namespace and name.
        object: String,
        /// Why.
        error: kube::Error,
    },
}

impl ApplyError {
    fn of(object: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let object = object.into();
        move |error| Self::Api { object, error }
    }

    /// Whether RBAC is the reason.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        let Self::Api { error, .. } = self;
        is_code(error, 403)
    }
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Carries out a plan.
///
/// # Errors
/// The first failure; what was written before it stays.
pub async fn config_maps(client: &Client, plan: &Plan) -> Result<(), ApplyError> {
    let writes: Vec<_> = plan.apply.iter().map(|change| write(client, change)).collect();
    stream::iter(writes).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
    let deletions: Vec<_> = plan.delete.iter().map(|map| delete(client, map)).collect();
    stream::iter(deletions).buffer_unordered(CONCURRENCY).try_collect::<()>().await
}

async fn write(client: &Client, change: &Change) -> Result<(), ApplyError> {
    let map = &change.object;
    let namespace = map.namespace().unwrap_or_default();
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let id = format!("ConfigMap {namespace}/{}", map.name_any());
    let written = if change.repairs {
        api.replace(&map.name_any(), &PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() }, map)
            .await
    } else {
        api.patch(&map.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(map)).await
    };
    match written {
        Ok(_) => Ok(()),
        // Its namespace goes, or somebody wrote in between: the watch tells, and another reconcile follows.
        Err(e) if is_code(&e, 404) || is_code(&e, 409) => Ok(()),
        // Somebody made it immutable: only a new one can hold another bundle.
        Err(e) if is_code(&e, 422) => delete(client, map).await,
        Err(e) => Err(ApplyError::of(id)(e)),
    }
}

/// Deletes a ConfigMap; one that is gone is fine.
async fn delete(client: &Client, map: &ConfigMap) -> Result<(), ApplyError> {
    let namespace = map.namespace().unwrap_or_default();
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    match api.delete(&map.name_any(), &DeleteParams::default()).await {
        Err(e) if !is_code(&e, 404) => Err(ApplyError::of(format!("ConfigMap {namespace}/{}", map.name_any()))(e)),
        _ => Ok(()),
    }
}

/// Writes the status.
///
/// # Errors
/// That of the API server.
pub async fn status(client: &Client, mesh: &str, status: &MeshStatus) -> Result<(), ApplyError> {
    let api: Api<Mesh> = Api::all(client.clone());
    let patch = json!({
        "apiVersion": Mesh::api_version(&()), "kind": Mesh::kind(&()), "metadata": { "name": mesh }, "status": status
    });
    match api.patch_status(mesh, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await {
        // It is gone: nobody reads its status any more.
        Err(e) if is_code(&e, 404) => Ok(()),
        ended => ended.map(|_| ()).map_err(ApplyError::of(format!("status of Mesh {mesh}"))),
    }
}

/// Adds the finalizer to what was read.
///
/// # Errors
/// That of the API server; 422 when the list of finalizers changed in between.
pub async fn add_finalizer(client: &Client, mesh: &Mesh) -> Result<(), ApplyError> {
    let patch = if mesh.finalizers().is_empty() {
        json!([
            { "op": "test", "path": "/metadata/uid", "value": mesh.uid() },
            { "op": "test", "path": "/metadata/finalizers", "value": null },
            { "op": "add", "path": "/metadata/finalizers", "value": [FINALIZER] },
        ])
    } else {
        json!([
            { "op": "test", "path": "/metadata/uid", "value": mesh.uid() },
            { "op": "test", "path": "/metadata/finalizers", "value": mesh.finalizers() },
            { "op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER },
        ])
    };
    json_patch(client, mesh, patch).await
}

/// Removes the finalizer from what was read.
///
/// # Errors
/// As [`add_finalizer`].
pub async fn remove_finalizer(client: &Client, mesh: &Mesh) -> Result<(), ApplyError> {
    let Some(at) = mesh.finalizers().iter().position(|f| f == FINALIZER) else { return Ok(()) };
    let path = format!("/metadata/finalizers/{at}");
    let patch = json!([
        { "op": "test", "path": "/metadata/uid", "value": mesh.uid() },
        { "op": "test", "path": path, "value": FINALIZER },
        { "op": "remove", "path": path },
    ]);
    match json_patch(client, mesh, patch).await {
        Err(ApplyError::Api { error, .. }) if is_code(&error, 404) => Ok(()),
        ended => ended,
    }
}

async fn json_patch(client: &Client, mesh: &Mesh, patch: serde_json::Value) -> Result<(), ApplyError> {
    let name = mesh.name_any();
    let api: Api<Mesh> = Api::all(client.clone());
    let error = ApplyError::of(format!("finalizers of Mesh {name}"));
    // An array of operations that we wrote ourselves.
    let patch = serde_json::from_value(patch).map_err(kube::Error::SerdeError);
    let patch = match patch {
        Ok(patch) => Patch::Json::<()>(patch),
        Err(e) => return Err(error(e)),
    };
    api.patch(&name, &PatchParams::default(), &patch).await.map(|_| ()).map_err(error)
}

/// Publishes events about an object; that one cannot be written is logged and changes nothing else.
pub async fn events<K: Resource<DynamicType = ()>>(recorder: &Recorder, about: &K, news: &[News]) {
    for item in news {
        let event = Event {
            type_: if item.warning { EventType::Warning } else { EventType::Normal },
            reason: item.reason.clone(),
            note: Some(item.message.chars().take(1000).collect()),
            action: "Reconcile".into(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &about.object_ref(&())).await {
            tracing::warn!(%error, reason = item.reason, "an event cannot be written");
        }
    }
}
