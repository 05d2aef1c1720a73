//! Gathers what a reconcile looks at, from the caches: no call to the API server.

use std::{collections::BTreeMap, sync::Arc};

use bowline_crds::{Mesh, names::OWNER_LABEL};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::ResourceExt;

use super::{
    config_map,
    pods::{self, Counts},
};
use crate::cluster::membership::{NamespaceConflict, Registry};

/// What is there.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The Mesh itself.
    pub mesh: Arc<Mesh>,
    /// Namespaces that belong to it, ascending, without those that are being deleted.
    pub members: Vec<String>,
    /// Namespaces that its selector matches and that another Mesh has.
    pub lost: BTreeMap<String, NamespaceConflict>,
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
        lost: BTreeMap::new(),
        terminating: Vec::new(),
        pods: Counts::default(),
        config_maps: BTreeMap::new(),
    };
    let selectors = registry.selectors();
    for namespace in namespaces {
        if namespace.metadata.deletion_timestamp.is_some() {
            observed.terminating.push(namespace.name_any());
        }
        if selectors.membership(&namespace.metadata).is(&name) {
            observed.members.push(namespace.name_any());
        } else if let Some(lost) = selectors.conflict(&name, &namespace.metadata) {
            observed.lost.insert(namespace.name_any(), lost);
        }
    }
    observed.members.sort();
    observed.pods = pods::count(&name, &observed.members, pods);
    observed.members.retain(|m| !observed.terminating.contains(m));
    let own = config_map::name(&name);
    for map in config_maps {
        // The label alone is easily copied onto something else, which is its owner's and no bundle.
        if map.name_any() == own
            && map.labels().get(OWNER_LABEL) == Some(&name)
            && let Some(namespace) = map.namespace()
        {
            observed.config_maps.insert(namespace, Arc::clone(map));
        }
    }
    observed
}
