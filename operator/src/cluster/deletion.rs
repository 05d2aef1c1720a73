//! Whether a Mesh that is being deleted may go.

use std::sync::Arc;

use bowline_crds::{
    Mesh,
    names::{FINALIZER, FORCE_DELETE_ANNOTATION},
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{
    cache::Cache,
    membership::Registry,
    pod::{injected_mesh, is_finished},
};

/// Where a Mesh stands between being wanted and being gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is wanted, but could be deleted without us: the finalizer is to be added first.
    Unprotected,
    /// It is wanted.
    Wanted,
    /// It is to go, and workloads are still in it.
    Held,
    /// It is to go, and may.
    Leaving,
    /// It is to go, and nothing of it is left that would be ours.
    Gone,
}

/// Meshes that are not about to go.
#[must_use]
pub fn staying(registry: &Registry, pods: &Cache<Pod>) -> Vec<Arc<Mesh>> {
    let mut meshes = registry.all();
    if meshes.iter().any(|m| m.metadata.deletion_timestamp.is_some()) {
        let all = pods.all();
        meshes.retain(|m| {
            let name = m.name_any();
            let has_workloads = all.iter().any(|p| !is_finished(p) && injected_mesh(p) == Some(name.as_str()));
            !matches!(stage(m, has_workloads), Stage::Leaving | Stage::Gone)
        });
    }
    meshes
}

/// See [`Stage`]; `has_workloads`: whether there are meshed pods of it, those that are being deleted too.
#[must_use]
pub fn stage(mesh: &Mesh, has_workloads: bool) -> Stage {
    let protected = mesh.finalizers().iter().any(|f| f == FINALIZER);
    let forced = mesh.annotations().get(FORCE_DELETE_ANNOTATION).is_some_and(|v| v == "true");
    match (mesh.metadata.deletion_timestamp.is_some(), protected) {
        (false, false) => Stage::Unprotected,
        (false, true) => Stage::Wanted,
        (true, false) => Stage::Gone,
        (true, true) if forced || !has_workloads => Stage::Leaving,
        (true, true) => Stage::Held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn deletion_waits_for_workloads_unless_forced() {
        let (none, some) = (false, true);
        for (metadata, pods, expected) in [
            (json!({}), some, Stage::Unprotected),
            (json!({ "finalizers": [FINALIZER] }), some, Stage::Wanted),
            (json!({ "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z" }), some, Stage::Held),
            (json!({ "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z" }), none, Stage::Leaving),
            (json!({ "finalizers": ["x/y"], "deletionTimestamp": "2026-01-01T00:00:00Z" }), some, Stage::Gone),
            (
                json!({
                    "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z",
                    "annotations": { FORCE_DELETE_ANNOTATION: "true" }
                }),
                some,
                Stage::Leaving,
            ),
        ] {
            let mut mesh = Mesh::new("m", bowline_crds::MeshSpec::default());
            mesh.metadata = serde_json::from_value(metadata.clone()).unwrap();
            assert_eq!(stage(&mesh, pods), expected, "{metadata}");
        }
    }
}
