//! What a reconcile measures.

use std::time::SystemTime;

use kube::ResourceExt;

use super::{events, fetch::Observed};
use crate::{
    ca::{
        issuance::state::CaState,
        rotation::{guard::SKEW_BOUND, risk::at_risk},
        unix_time::unix,
    },
    reconcile::rotation::ensure::Ensured,
    telemetry::{MeshLabel, Metrics, StepLabels},
};

pub(super) fn authority(
    metrics: &Metrics,
    observed: &Observed,
    ca: Option<&CaState>,
    rotation: Option<&Ensured>,
    now: SystemTime,
) {
    let label = MeshLabel { mesh: observed.mesh.name_any() };
    let metrics = &metrics.rotation;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let at_risk = ca.is_some_and(|ca| at_risk(&ca.ledger, unix(now)).is_some());
    metrics.at_risk.get_or_create(&label).set(at_risk.into());
    let steady = ca.is_none_or(|ca| ca.ledger.is_steady());
    let missing = rotation.map(|r| &r.missing).filter(|_| !steady);
    metrics.waiting_proxies.get_or_create(&label).set(missing.map_or(0, |m| count(m.proxies.len())));
    metrics.waiting_replicas.get_or_create(&label).set(missing.map_or(0, |m| count(m.replicas.len())));
    let began = ca.and_then(|ca| ca.ledger.rotation.as_ref()).filter(|_| !steady).map_or(0, |r| r.began);
    metrics.began.get_or_create(&label).set(i64::try_from(began).unwrap_or(i64::MAX));
    if let Some(evidence) = rotation.and_then(|r| r.evidence.as_ref()) {
        let skewed = evidence.proxies.iter().filter(|p| p.skew.is_some_and(|s| s.unsigned_abs() > SKEW_BOUND)).count();
        metrics.skewed.get_or_create(&label).set(count(skewed));
    }
    for write in rotation.iter().flat_map(|r| &r.writes) {
        if let Some(step) = events::step(write) {
            metrics.steps.get_or_create(&StepLabels { mesh: label.mesh.clone(), step }).inc();
        }
    }
}

pub(super) fn mesh(metrics: &Metrics, observed: &Observed) {
    let label = MeshLabel { mesh: observed.mesh.name_any() };
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    metrics.mesh_namespaces.get_or_create(&label).set(count(observed.members.len()));
    metrics.mesh_proxies.get_or_create(&label).set(observed.pods.total.into());
    metrics.mesh_proxies_ready.get_or_create(&label).set(observed.pods.ready.into());
    let missing = observed.pods.missing.len() + observed.pods.host_network.len();
    metrics.mesh_pods_without_sidecar.get_or_create(&label).set(count(missing));
}
