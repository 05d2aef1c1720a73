//! Builds what a Mesh needs in the cluster and compares it with what is there; no client.

pub mod config_map;

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::ConfigMap;

use super::{fetch::Observed, validate::Valid};
use crate::{ca::state::CaState, config::Config};

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
}

/// A bundle goes to every member, and stays wherever workloads of the Mesh live or another Mesh contests the namespace: nobody
/// loses the trust that they have. Nothing is written into a namespace that is being deleted.
#[must_use]
pub fn build(observed: &Observed, valid: &Valid, ca: &CaState, config: &Config, control_ips: &[IpAddr]) -> Plan {
    let mut plan = Plan::default();
    let content = config_map::content(valid, ca, config, control_ips);
    let kept = observed
        .config_maps
        .keys()
        .filter(|n| observed.conflicts.contains_key(*n) || observed.pods.present_in.contains(*n))
        .filter(|n| !observed.terminating.contains(n));
    let mut wanted: Vec<&String> = observed.members.iter().chain(kept).collect();
    wanted.sort();
    wanted.dedup();
    for namespace in &wanted {
        let seen = observed.config_maps.get(*namespace);
        let object = config_map::build(&valid.name, namespace, &content);
        if seen.is_none_or(|seen| !config_map::is_current(seen, &object)) {
            plan.apply.push(match seen.filter(|seen| config_map::was_edited(seen)) {
                Some(seen) => Change { object: config_map::repaired(seen, object), repairs: true },
                None => Change { object, repairs: false },
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
