//! Every Mesh, and which namespace belongs to which: the same answer on every replica and for every part of the operator.

use std::{collections::BTreeSet, sync::Arc};

use bowline_crds::{
    Mesh,
    names::{EXEMPT_NAMESPACES, MESH_LABEL},
};
use k8s_openapi::{
    api::core::v1::Namespace,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{
    ResourceExt,
    core::{Selector, SelectorExt},
    runtime::reflector::Store,
};
use tokio::sync::watch;

use crate::cache::Cache;

/// Which Mesh a namespace belongs to.
#[derive(Debug, Clone)]
pub enum Membership {
    /// To none.
    None,
    /// To this one.
    One(Arc<Mesh>),
    /// Its label names a Mesh that does not exist.
    Unknown(String),
    /// Several Meshes claim it (their names, ascending): pods that are meshed stay as they are, no other joins.
    Conflict(Vec<String>),
}

impl Membership {
    /// Whether the namespace belongs to this Mesh and to no other.
    #[must_use]
    pub fn is(&self, mesh: &str) -> bool {
        matches!(self, Self::One(m) if m.name_any() == mesh)
    }
}

/// Every Mesh, kept fresh by a watch.
#[derive(Clone)]
pub struct Registry {
    meshes: Cache<Mesh>,
    exempt: Arc<BTreeSet<String>>,
}

impl Registry {
    /// `namespace`: the operator's own, which never joins.
    #[must_use]
    pub fn new(meshes: Cache<Mesh>, namespace: &str) -> Self {
        Self { meshes, exempt: Arc::new(exempt(namespace)) }
    }

    /// The Mesh of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Mesh>> {
        self.meshes.all().into_iter().find(|m| m.name_any() == name)
    }

    /// Every Mesh, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Mesh>> {
        let mut all = self.meshes.all();
        all.sort_by_key(|m| m.name_any());
        all
    }

    /// Which Mesh the namespace belongs to.
    #[must_use]
    pub fn for_namespace(&self, namespace: &Namespace) -> Membership {
        membership(&self.all(), &namespace.metadata, &self.exempt)
    }

    /// Namespaces that never join.
    #[must_use]
    pub fn exempt(&self) -> &BTreeSet<String> {
        &self.exempt
    }

    /// The store behind it.
    #[must_use]
    pub fn store(&self) -> Store<Mesh> {
        self.meshes.store().clone()
    }

    /// Changes whenever a Mesh does.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.meshes.subscribe()
    }

    /// Ends when the first list is complete.
    pub async fn synced(&self) {
        self.meshes.synced().await;
    }
}

/// Namespaces that never join: the system's and the operator's own.
#[must_use]
pub fn exempt(operator_namespace: &str) -> BTreeSet<String> {
    EXEMPT_NAMESPACES.iter().map(|n| (*n).to_owned()).chain([operator_namespace.to_owned()]).collect()
}

/// Which Mesh a namespace belongs to. It joins by the label [`MESH_LABEL`] or by a Mesh's selector; when these name more than one Mesh
/// it is a conflict, whatever the label says, because a label that silently won would move workloads between trust domains.
#[must_use]
pub fn membership(meshes: &[Arc<Mesh>], namespace: &ObjectMeta, exempt: &BTreeSet<String>) -> Membership {
    if namespace.name.as_ref().is_none_or(|name| exempt.contains(name)) {
        return Membership::None;
    }
    let label = namespace.labels.as_ref().and_then(|l| l.get(MESH_LABEL)).filter(|name| !name.is_empty());
    if let Some(name) = label
        && !meshes.iter().any(|m| m.name_any() == *name)
    {
        return Membership::Unknown(name.clone());
    }
    let mut claimants: Vec<&Arc<Mesh>> = meshes
        .iter()
        .filter(|m| label.is_some_and(|name| m.name_any() == *name) || selects(m.as_ref(), namespace))
        .collect();
    claimants.sort_by_key(|m| m.name_any());
    match claimants.as_slice() {
        [] => Membership::None,
        [one] => Membership::One(Arc::clone(one)),
        several => Membership::Conflict(several.iter().map(|m| m.name_any()).collect()),
    }
}

/// Whether the Mesh's selector matches; one that cannot be read matches nothing (the Mesh's status says so).
fn selects(mesh: &Mesh, namespace: &ObjectMeta) -> bool {
    let labels = namespace.labels.clone().unwrap_or_default();
    let selector: Option<&LabelSelector> = mesh.spec.injection.namespace_selector.as_ref();
    selector.cloned().and_then(|s| Selector::try_from(s).ok()).is_some_and(|s| s.matches(&labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_crds::MeshSpec;

    fn mesh(name: &str, team: Option<&str>) -> Arc<Mesh> {
        let mut spec = MeshSpec::default();
        spec.injection.namespace_selector = team.map(|t| LabelSelector {
            match_labels: Some([("team".to_owned(), t.to_owned())].into()),
            ..LabelSelector::default()
        });
        Arc::new(Mesh::new(name, spec))
    }

    fn namespace(name: &str, labels: &[(&str, &str)]) -> ObjectMeta {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() }
    }

    fn judged(meshes: &[Arc<Mesh>], namespace: &ObjectMeta) -> String {
        match membership(meshes, namespace, &exempt("bowline-system")) {
            Membership::None => "none".into(),
            Membership::One(m) => m.name_any(),
            Membership::Unknown(name) => format!("unknown {name}"),
            Membership::Conflict(names) => format!("conflict {}", names.join(" ")),
        }
    }

    #[test]
    fn a_namespace_joins_by_label_or_selector_and_never_two() {
        let meshes = [mesh("a", None), mesh("b", Some("red")), mesh("c", Some("red"))];
        let ab = &meshes[..2];
        for (meshes, labels, expected) in [
            (ab, vec![], "none"),
            (ab, vec![(MESH_LABEL, "a")], "a"),
            (ab, vec![(MESH_LABEL, "")], "none"),
            (ab, vec![("team", "red")], "b"),
            (ab, vec![("team", "blue")], "none"),
            (ab, vec![(MESH_LABEL, "b"), ("team", "red")], "b"),
            (ab, vec![(MESH_LABEL, "a"), ("team", "red")], "conflict a b"),
            (ab, vec![(MESH_LABEL, "x")], "unknown x"),
            (ab, vec![(MESH_LABEL, "x"), ("team", "red")], "unknown x"),
            (&meshes[..], vec![("team", "red")], "conflict b c"),
        ] {
            assert_eq!(judged(meshes, &namespace("shop", &labels)), expected, "{labels:?}");
        }
    }

    #[test]
    fn system_namespaces_never_join() {
        let everything = mesh("all", None);
        let mut everything = Arc::unwrap_or_clone(everything);
        everything.spec.injection.namespace_selector = Some(LabelSelector::default());
        let meshes = [Arc::new(everything)];
        assert_eq!(judged(&meshes, &namespace("shop", &[])), "all");
        for name in ["kube-system", "kube-public", "kube-node-lease", "bowline-system"] {
            assert_eq!(judged(&meshes, &namespace(name, &[(MESH_LABEL, "all")])), "none", "{name}");
        }
    }
}
