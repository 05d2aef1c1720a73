//! Gathers what a reconcile looks at, from the caches: no call to the API server.

use std::{collections::BTreeMap, sync::Arc};

use bowline_crds::{Mesh, names::OWNER_LABEL};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::ResourceExt;

use super::pods::{self, Counts};
use crate::meshes::{Membership, Registry};

/// What is there.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The Mesh itself.
    pub mesh: Arc<Mesh>,
    /// Namespaces that belong to it, ascending, without those that are being deleted.
    pub members: Vec<String>,
    /// Namespaces that it and others claim, with the others' names, ascending.
    pub conflicts: BTreeMap<String, Vec<String>>,
    /// Namespaces that are being deleted.
    pub terminating: Vec<String>,
    /// Its pods.
    pub pods: Counts,
    /// Its trust ConfigMaps by namespace.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
}

/// See the module.
#[must_use]
pub fn fetch(
    mesh: Arc<Mesh>,
    registry: &Registry,
    namespaces: &[Arc<Namespace>],
    pods: &[Arc<Pod>],
    config_maps: &[Arc<ConfigMap>],
) -> Observed {
    let name = mesh.name_any();
    let mut observed = Observed {
        mesh,
        members: Vec::new(),
        conflicts: BTreeMap::new(),
        terminating: Vec::new(),
        pods: Counts::default(),
        config_maps: BTreeMap::new(),
    };
    for namespace in namespaces {
        if namespace.metadata.deletion_timestamp.is_some() {
            observed.terminating.push(namespace.name_any());
        }
        match registry.for_namespace(namespace) {
            Membership::One(m) if m.name_any() == name => observed.members.push(namespace.name_any()),
            Membership::Conflict(names) if names.contains(&name) => {
                let others = names.into_iter().filter(|n| *n != name).collect();
                observed.conflicts.insert(namespace.name_any(), others);
            }
            _ => {}
        }
    }
    observed.members.sort();
    observed.pods = pods::count(&name, &observed.members, pods);
    observed.members.retain(|m| !observed.terminating.contains(m));
    for map in config_maps {
        if map.labels().get(OWNER_LABEL) == Some(&name)
            && let Some(namespace) = map.namespace()
        {
            observed.config_maps.insert(namespace, Arc::clone(map));
        }
    }
    observed
}
