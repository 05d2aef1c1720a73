//! Whether a Mesh that is being deleted may go.

use std::sync::Arc;

use bowline_crds::{
    Mesh,
    names::{FINALIZER, FORCE_DELETE_ANNOTATION},
};
use kube::ResourceExt;

use super::pods::{self, Counts};
use crate::runtime::context::Ctx;

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
pub fn staying(ctx: &Ctx) -> Vec<Arc<Mesh>> {
    let mut meshes = ctx.registry.all();
    if meshes.iter().any(|m| m.metadata.deletion_timestamp.is_some()) {
        let all = ctx.pods.all();
        meshes.retain(|m| {
            let counts = pods::count(&m.name_any(), &[], &all);
            !matches!(stage(m, &counts), Stage::Leaving | Stage::Gone)
        });
    }
    meshes
}

/// See [`Stage`].
#[must_use]
pub fn stage(mesh: &Mesh, pods: &Counts) -> Stage {
    let protected = mesh.finalizers().iter().any(|f| f == FINALIZER);
    let forced = mesh.annotations().get(FORCE_DELETE_ANNOTATION).is_some_and(|v| v == "true");
    match (mesh.metadata.deletion_timestamp.is_some(), protected) {
        (false, false) => Stage::Unprotected,
        (false, true) => Stage::Wanted,
        (true, false) => Stage::Gone,
        (true, true) if forced || pods.present.is_empty() => Stage::Leaving,
        (true, true) => Stage::Held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn deletion_waits_for_workloads_unless_forced() {
        let none = Counts::default();
        let some = Counts { present: ["a/b".to_owned()].into(), ..Counts::default() };
        for (metadata, pods, expected) in [
            (json!({}), &some, Stage::Unprotected),
            (json!({ "finalizers": [FINALIZER] }), &some, Stage::Wanted),
            (json!({ "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z" }), &some, Stage::Held),
            (json!({ "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z" }), &none, Stage::Leaving),
            (json!({ "finalizers": ["x/y"], "deletionTimestamp": "2026-01-01T00:00:00Z" }), &some, Stage::Gone),
            (
                json!({
                    "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z",
                    "annotations": { FORCE_DELETE_ANNOTATION: "true" }
                }),
                &some,
                Stage::Leaving,
            ),
        ] {
            let mut mesh = Mesh::new("m", bowline_crds::MeshSpec::default());
            mesh.metadata = serde_json::from_value(metadata.clone()).unwrap();
            assert_eq!(stage(&mesh, pods), expected, "{metadata}");
        }
    }
}
