//! Builds what a Mesh needs in the cluster and compares it with what is there; no client.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::ConfigMap;

use super::{config_map, fetch::Observed};
use crate::{
    ca::{issuance::state::CaState, rotation::evidence::Mount},
    cluster::mesh::validate::Valid,
    runtime::config::Config,
};

/// What is to be written.
#[derive(Debug, Default)]
pub struct Plan {
    /// ConfigMaps to apply.
    pub apply: Vec<Change>,
    /// ConfigMaps to delete, as they were seen.
    pub delete: Vec<Arc<ConfigMap>>,
}

/// One object to apply.
#[derive(Debug)]
pub struct Change {
    /// The object.
    pub object: ConfigMap,
    /// Somebody else had edited it: it is put back as a whole, with the resource version that was seen as precondition.
    pub repairs: bool,
    /// What was seen cannot be changed.
    pub immutable: bool,
}

/// Where a bundle belongs: in every member, and wherever it is and workloads of the Mesh live: nobody loses the trust that they have.
/// Nothing is written into a namespace that is being deleted.
fn homes(observed: &Observed) -> Vec<&String> {
    let kept = observed
        .config_maps
        .keys()
        .filter(|n| observed.pods.present_in.contains(*n))
        .filter(|n| !observed.terminating.contains(n));
    let mut homes: Vec<&String> = observed.members.iter().chain(kept).collect();
    homes.sort();
    homes.dedup();
    homes
}

/// What pods mount where. A namespace without bundle and without pods of the Mesh is left out: nobody can start there before it has
/// one, which is then the present one.
#[must_use]
pub fn mounts(observed: &Observed) -> Vec<Mount> {
    let homes = homes(observed).into_iter();
    let mount = |namespace: &String| {
        let seen = observed.config_maps.get(namespace);
        (seen.is_some() || observed.pods.present_in.contains(namespace)).then(|| Mount {
            namespace: namespace.clone(),
            sequence: seen.and_then(|map| config_map::sequence(map)).unwrap_or_default(),
        })
    };
    homes.filter_map(mount).collect()
}

/// What differs from how it should be.
#[must_use]
pub fn build(observed: &Observed, valid: &Valid, ca: &CaState, config: &Config, control_ips: &[IpAddr]) -> Plan {
    let mut plan = Plan::default();
    let content = config_map::content(valid, ca, config, control_ips);
    let wanted = homes(observed);
    for namespace in &wanted {
        let seen = observed.config_maps.get(*namespace);
        let object = config_map::build(&valid.name, namespace, &content);
        if seen.is_none_or(|seen| !config_map::is_current(seen, &object)) {
            let immutable = seen.is_some_and(|seen| seen.immutable == Some(true));
            plan.apply.push(match seen.filter(|seen| config_map::was_edited(seen)) {
                Some(seen) => Change { object: config_map::repaired(seen, object), repairs: true, immutable },
                None => Change { object, repairs: false, immutable },
            });
        }
    }
    for (namespace, seen) in &observed.config_maps {
        if !wanted.contains(&namespace) && !observed.terminating.contains(namespace) {
            plan.delete.push(Arc::clone(seen));
        }
    }
    plan
}
