//! Every Mesh, and which namespace belongs to which: the same answer on every replica and for every part of the operator.

mod coalesced_list;

use std::{collections::BTreeSet, sync::Arc};

use bowline_crds::{
    Mesh,
    names::{EXEMPT_NAMESPACES, MESH_LABEL},
};
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    core::{Selector, SelectorExt},
    runtime::reflector::Store,
};
use tokio::sync::watch;

use self::coalesced_list::CoalescedList;
use crate::cluster::{cache::Cache, mesh::in_force::selector_in_force};

/// Which Mesh a namespace belongs to.
#[derive(Debug, Clone)]
pub enum Membership {
    /// To none.
    None,
    /// To this one.
    One(Arc<Mesh>),
    /// Its label names a Mesh that does not exist.
    Unknown(String),
}

impl Membership {
    /// Whether the namespace belongs to this Mesh.
    #[must_use]
    pub fn is(&self, mesh: &str) -> bool {
        matches!(self, Self::One(m) if m.name_any() == mesh)
    }
}

/// Why a Mesh does not have a namespace that its selector matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceConflict {
    /// The namespace's label names this other Mesh.
    LabelNames(String),
    /// The selector of this older Mesh matches too.
    OlderMesh(String),
}

/// Every Mesh, kept fresh by a watch.
#[derive(Clone)]
pub struct Registry {
    meshes: Cache<Mesh>,
    exempt: Arc<BTreeSet<String>>,
    listed: Arc<CoalescedList>,
}

impl Registry {
    /// `namespace`: the operator's own, which never joins.
    #[must_use]
    pub fn new(meshes: Cache<Mesh>, namespace: &str) -> Self {
        Self { meshes, exempt: Arc::new(exempt(namespace)), listed: Arc::default() }
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

    /// Every Mesh with what it selects, to judge many namespaces by.
    #[must_use]
    pub fn selectors(&self) -> MeshSelectors {
        MeshSelectors::new(&self.all(), &self.exempt)
    }

    /// Which Mesh the namespace belongs to.
    #[must_use]
    pub fn for_namespace(&self, namespace: &Namespace) -> Membership {
        self.selectors().membership(&namespace.metadata)
    }

    /// As [`Registry::for_namespace`], by the Meshes that there are now: the watch may be behind.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn for_namespace_now(
        &self,
        client: &Client,
        namespace: &Namespace,
    ) -> Result<Membership, Arc<kube::Error>> {
        let list = || async {
            let meshes = Api::<Mesh>::all(client.clone());
            meshes.list(&ListParams::default()).await.map(|list| list.items)
        };
        let meshes = self.listed.get(list).await?;
        Ok(MeshSelectors::new(&meshes, &self.exempt).membership(&namespace.metadata))
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

/// Every Mesh with what it selects, the oldest first.
#[derive(Clone)]
pub struct MeshSelectors {
    meshes: Vec<(Arc<Mesh>, Option<Selector>)>,
    exempt: Arc<BTreeSet<String>>,
}

impl MeshSelectors {
    /// Of these Meshes; namespaces in `exempt` never join.
    #[must_use]
    pub fn new(meshes: &[Arc<Mesh>], exempt: &Arc<BTreeSet<String>>) -> Self {
        let mut meshes: Vec<_> =
            meshes.iter().map(|m| (Arc::clone(m), selector_in_force(m).map(|(_, selector)| selector))).collect();
        meshes.sort_by_key(|(m, _)| (m.metadata.creation_timestamp.as_ref().map(|t| t.0), m.name_any()));
        Self { meshes, exempt: Arc::clone(exempt) }
    }

    /// Which Mesh a namespace belongs to: the one that its label [`MESH_LABEL`] names, otherwise the oldest whose selector matches. So
    /// nobody who makes a Mesh takes a namespace from another.
    #[must_use]
    pub fn membership(&self, namespace: &ObjectMeta) -> Membership {
        if self.is_exempt(namespace) {
            return Membership::None;
        }
        if let Some(label) = label(namespace) {
            let named = self.meshes.iter().find(|(m, _)| m.name_any() == label);
            return named
                .map_or_else(|| Membership::Unknown(label.to_owned()), |(m, _)| Membership::One(Arc::clone(m)));
        }
        self.selecting(namespace).next().map_or(Membership::None, |m| Membership::One(Arc::clone(m)))
    }

    /// Why `mesh` does not have the namespace although its selector matches; `None`: it has it, or does not want it.
    #[must_use]
    pub fn conflict(&self, mesh: &str, namespace: &ObjectMeta) -> Option<NamespaceConflict> {
        let wants = !self.is_exempt(namespace) && self.selecting(namespace).any(|m| m.name_any() == mesh);
        match self.membership(namespace) {
            Membership::One(winner) if wants && winner.name_any() != mesh => Some(match label(namespace) {
                Some(_) => NamespaceConflict::LabelNames(winner.name_any()),
                None => NamespaceConflict::OlderMesh(winner.name_any()),
            }),
            _ => None,
        }
    }

    fn is_exempt(&self, namespace: &ObjectMeta) -> bool {
        namespace.name.as_ref().is_none_or(|name| self.exempt.contains(name))
    }

    fn selecting<'a>(&'a self, namespace: &'a ObjectMeta) -> impl Iterator<Item = &'a Arc<Mesh>> {
        let labels = namespace.labels.clone().unwrap_or_default();
        let matching = self.meshes.iter().filter(move |(_, s)| s.as_ref().is_some_and(|s| s.matches(&labels)));
        matching.map(|(m, _)| m)
    }
}

fn label(namespace: &ObjectMeta) -> Option<&str> {
    namespace.labels.as_ref()?.get(MESH_LABEL).map(String::as_str).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
