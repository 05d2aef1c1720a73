//! What the status says of namespaces that the Mesh's selector matches and that another Mesh has. It is told where it is caused: the
//! Mesh that has them does not mention it.

use std::collections::BTreeMap;

use bowline_crds::names::MESH_LABEL;
use kube::ResourceExt;

use crate::{
    cluster::membership::NamespaceConflict,
    reconcile::mesh::{fetch::Observed, pods::NAMED},
};

/// The namespaces that an older Mesh selects too: until somebody decides whose they are, the spec is not carried out.
pub(super) fn with_older(observed: &Observed) -> Option<String> {
    let older = observed.lost.values().any(|lost| matches!(lost, NamespaceConflict::OlderMesh(_)));
    older.then(|| describe(observed))
}

/// All of them, and what to do.
pub(super) fn describe(observed: &Observed) -> String {
    let mesh = observed.mesh.name_any();
    let (by_age, by_label): (BTreeMap<_, _>, BTreeMap<_, _>) =
        observed.lost.iter().partition(|(_, lost)| matches!(lost, NamespaceConflict::OlderMesh(_)));
    let mut parts = Vec::new();
    if !by_age.is_empty() {
        parts.push(format!(
            "{}: change the spec.injection.namespaceSelector of one of the Meshes, or label the namespace {MESH_LABEL}={mesh} if it \
             is to move",
            named(&by_age, "is selected by the older Mesh")
        ));
    }
    if !by_label.is_empty() {
        parts.push(format!(
            "{}: remove that label if the namespace is to move, or leave such namespaces out of spec.injection.namespaceSelector \
             with the expression {{key: {MESH_LABEL}, operator: DoesNotExist}}",
            named(&by_label, "has the label of Mesh")
        ));
    }
    parts.join("; ")
}

/// The first few, and how many more there are.
fn named(lost: &BTreeMap<&String, &NamespaceConflict>, how: &str) -> String {
    let first = lost.iter().take(NAMED).map(
        |(namespace, NamespaceConflict::LabelNames(mesh) | NamespaceConflict::OlderMesh(mesh))| {
            format!("namespace {namespace} matches the selector, but {how} {mesh}")
        },
    );
    let first = first.collect::<Vec<_>>().join(", ");
    match lost.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
