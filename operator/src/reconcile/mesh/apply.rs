//! Writes to the API server: server-side apply with one field manager, deletions, the finalizer, status and events.

pub mod failures;

use bowline_crds::{Mesh, MeshStatus, names::FINALIZER};
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::events::{Event, EventType, Recorder},
};
use serde_json::json;

use self::failures::Failures;
use super::{
    build::{Change, Plan},
    events::MeshEvent,
};
use crate::reconcile::api_error::{Cause, words};

/// Field manager of this reconciler.
pub const MANAGER: &str = "bowline-mesh";
/// Writes at the same time.
const CONCURRENCY: usize = 8;

/// What was written when and why it failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused or did not answer.
    #[error("{object}: {}", words(.error))]
    Api {
        /// Kind, namespace and name.
        object: String,
        /// Why.
        error: kube::Error,
    },
    /// Some of many writes failed.
    #[error("{0}")]
    Some(Failures),
}

impl ApplyError {
    fn of(object: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let object = object.into();
        move |error| Self::Api { object, error }
    }

    /// What kind of a refusal it was.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self {
            Self::Api { error, .. } => Cause::of(error),
            Self::Some(failures) => failures.cause(),
        }
    }

    /// Whether it only says that memory was behind: the watch brings what is there now.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        match self {
            // In these words the API server says that the test of a JSON patch did not hold.
            Self::Api { error, .. } if is_code(error, 422) => words(error).contains("rejected our request"),
            Self::Api { error, .. } => is_code(error, 404) || is_code(error, 409),
            Self::Some(_) => false,
        }
    }
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Carries out a plan, all of it: a namespace that cannot be written keeps no other from its bundle.
///
/// # Errors
/// Everything that failed.
pub async fn config_maps(client: &Client, plan: &Plan) -> Result<(), ApplyError> {
    let id = |map: &ConfigMap| format!("ConfigMap {}/{}", map.namespace().unwrap_or_default(), map.name_any());
    let writes: Vec<_> =
        plan.apply.iter().map(|change| async move { (id(&change.object), write(client, change).await) }).collect();
    let mut ended: Vec<_> = stream::iter(writes).buffer_unordered(CONCURRENCY).collect().await;
    let deletions: Vec<_> = plan.delete.iter().map(|map| async move { (id(map), delete(client, map).await) }).collect();
    ended.extend(stream::iter(deletions).buffer_unordered(CONCURRENCY).collect::<Vec<_>>().await);
    let mut failures = Failures::default();
    for (object, outcome) in ended {
        if let Err(error) = outcome {
            failures.add(object, &error);
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(ApplyError::Some(failures)) }
}

async fn write(client: &Client, change: &Change) -> kube::Result<()> {
    let map = &change.object;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &map.namespace().unwrap_or_default());
    let written = if change.repairs {
        api.replace(&map.name_any(), &PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() }, map)
            .await
    } else {
        api.patch(&map.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(map)).await
    };
    match written {
        Ok(_) => Ok(()),
        // Its namespace goes, or somebody wrote in between: the watch tells, and another reconcile follows.
        Err(e) if is_code(&e, 404) || is_code(&e, 409) || Cause::of(&e) == Cause::Terminating => Ok(()),
        // Somebody made it immutable: only a new one can hold another bundle.
        Err(e) if is_code(&e, 422) && change.immutable => delete(client, map).await,
        Err(e) => Err(e),
    }
}

/// Deletes a ConfigMap; one that is gone is fine.
async fn delete(client: &Client, map: &ConfigMap) -> kube::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &map.namespace().unwrap_or_default());
    match api.delete(&map.name_any(), &DeleteParams::default()).await {
        Err(e) if !is_code(&e, 404) => Err(e),
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
pub async fn events<K: Resource<DynamicType = ()>>(recorder: &Recorder, about: &K, events: &[MeshEvent]) {
    for item in events {
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
