//! The Mesh's status: a pure function of what was found, what was done and what the status said before.

mod condition;
mod conflicts;
pub mod facts;
mod rotation;

use bowline_crds::{
    MeshStatus,
    conditions::{reasons, types},
    mesh::{NamespacesStatus, ProxiesStatus, VersionCount},
};
use bowline_proxy::contract::bootstrap::VERSION;

use self::{
    condition::{Draft, draft},
    facts::{Facts, ReconcileOutcome, held_by},
};
use super::{
    fetch::Observed,
    pods::{Counts, NAMED, named},
};
use crate::{
    ca::unix_time::unix,
    cluster::mesh::in_force::{mode_in_force, selector_in_force},
};

/// Names of member namespaces that are listed at most.
const LISTED: usize = 100;

/// The status.
#[must_use]
pub fn build(facts: Facts<'_>) -> MeshStatus {
    let mesh = &facts.observed.mesh;
    let before = mesh.status.clone().unwrap_or_default();
    let mut status = MeshStatus {
        observed_generation: mesh.metadata.generation,
        conditions: Vec::new(),
        version: Some(VERSION.into()),
        mtls_mode: Some(mode_in_force(mesh)),
        certificates: facts.ca.map(|ca| rotation::certificates(ca, facts)).or_else(|| before.certificates.clone()),
        proxies: Some(proxies(facts.observed)),
        namespaces: Some(namespaces(facts.observed)),
    };
    status.conditions =
        conditions(facts, &before).into_iter().map(|c| c.finish(mesh, &before.conditions, facts.now)).collect();
    status
}

fn conditions(facts: Facts<'_>, before: &MeshStatus) -> Vec<Draft> {
    let as_expected = |kind| draft(kind, false, reasons::AS_EXPECTED, "");
    let mut all = match facts.outcome {
        ReconcileOutcome::Done | ReconcileOutcome::NoSource(_) => {
            match (conflicts::with_older(facts.observed), unasked(facts, before)) {
                (Some(message), _) => stalled(reasons::NAMESPACE_CONFLICT, &message),
                (None, Some(message)) => reconciling(false, reasons::WEBHOOK_NOT_READY, message),
                (None, None) => vec![
                    draft(types::READY, true, reasons::RECONCILED, "everything is in place"),
                    as_expected(types::RECONCILING),
                    as_expected(types::STALLED),
                    rotation::progressing(facts).unwrap_or_else(|| as_expected(types::PROGRESSING)),
                ],
            }
        }
        ReconcileOutcome::Stalled { reason, message } => stalled(reason, message),
        ReconcileOutcome::Failed { reason, message } => {
            // What was in place for this generation still is.
            reconciling(was_ready(facts, before), reason, message)
        }
        ReconcileOutcome::Held => stalled(reasons::WORKLOADS_PRESENT, &held_by(facts.observed)),
        ReconcileOutcome::Deleting => reconciling(false, reasons::DELETING, "the Mesh is being deleted"),
    };
    all.insert(3, available(facts));
    all.push(rotation::trust(facts));
    all.push(degraded(facts));
    all
}

fn was_ready(facts: Facts<'_>, before: &MeshStatus) -> bool {
    before.observed_generation == facts.observed.mesh.metadata.generation
        && before.conditions.iter().any(|c| c.type_ == types::READY && c.status == "True")
}

/// What the webhook lacks, if pods of the Mesh may start without a sidecar for it. A new leader that has not looked yet takes nobody's
/// word back.
fn unasked<'a>(facts: Facts<'a>, before: &MeshStatus) -> Option<&'a str> {
    let not_ready = facts.webhook.filter(|not_ready| match not_ready.in_force {
        Some(in_force) => !in_force,
        None => !was_ready(facts, before),
    });
    not_ready.map(|not_ready| not_ready.message.as_str())
}

fn reconciling(ready: bool, reason: &'static str, message: &str) -> Vec<Draft> {
    vec![
        draft(types::READY, ready, reason, message),
        draft(types::RECONCILING, true, reason, message),
        draft(types::STALLED, false, reasons::AS_EXPECTED, ""),
        draft(types::PROGRESSING, true, reason, message),
    ]
}

fn stalled(reason: &'static str, message: &str) -> Vec<Draft> {
    vec![
        draft(types::READY, false, reason, message),
        draft(types::RECONCILING, false, reason, message),
        draft(types::STALLED, true, reason, message),
        draft(types::PROGRESSING, false, reason, message),
    ]
}

fn available(facts: Facts<'_>) -> Draft {
    match facts.ca.and_then(|ca| ca.ledger.active_issuer()) {
        Some(issuer) if issuer.not_after > unix(facts.now) => {
            draft(types::AVAILABLE, true, reasons::AS_EXPECTED, "workloads can join and renew their identities")
        }
        Some(_) => draft(types::AVAILABLE, false, reasons::AUTHORITY_EXPIRED, "the issuing CA has expired"),
        None => draft(types::AVAILABLE, false, reasons::NO_AUTHORITY, "there is no certificate authority"),
    }
}

fn degraded(facts: Facts<'_>) -> Draft {
    let Counts { missing, host_network, .. } = &facts.observed.pods;
    match facts.outcome {
        ReconcileOutcome::Failed { reason, message } | ReconcileOutcome::Stalled { reason, message } => {
            draft(types::DEGRADED, true, reason, message)
        }
        ReconcileOutcome::NoSource(message) => draft(types::DEGRADED, true, reasons::NO_AUTHORITY_OFFERED, message),
        _ if facts.webhook.is_some_and(|not_ready| not_ready.is_failure) => {
            let message = facts.webhook.map(|not_ready| not_ready.message.clone()).unwrap_or_default();
            draft(types::DEGRADED, true, reasons::WEBHOOK_NOT_READY, message)
        }
        _ if !facts.observed.lost.is_empty() => {
            draft(types::DEGRADED, true, reasons::NAMESPACE_CONFLICT, conflicts::describe(facts.observed))
        }
        _ if rotation::risk(facts).is_some() => {
            draft(types::DEGRADED, true, reasons::TRUST_AT_RISK, rotation::risk(facts).unwrap_or_default())
        }
        _ if !(missing.is_empty() && host_network.is_empty()) => {
            draft(types::DEGRADED, true, reasons::PODS_WITHOUT_SIDECAR, without_sidecar(&facts.observed.pods))
        }
        _ => draft(types::DEGRADED, false, reasons::AS_EXPECTED, ""),
    }
}

fn without_sidecar(Counts { missing, host_network, .. }: &Counts) -> String {
    let label = bowline_crds::names::INJECT_LABEL;
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!(
            "{} pods of member namespaces carry no sidecar: {}; restart them, or label those that are to stay out with {label}=false",
            missing.len(),
            named(missing),
        ));
    }
    if !host_network.is_empty() {
        parts.push(format!(
            "{} pods of member namespaces have hostNetwork and cannot carry a sidecar: {}; label them {label}=false, or remove \
             hostNetwork",
            host_network.len(),
            named(host_network),
        ));
    }
    parts.join("; ")
}

fn proxies(observed: &Observed) -> ProxiesStatus {
    let pods = &observed.pods;
    ProxiesStatus {
        summary: format!("{}/{}", pods.ready, pods.total),
        total: pods.total,
        ready: pods.ready,
        missing: u32::try_from(pods.missing.len() + pods.host_network.len()).unwrap_or(u32::MAX),
        missing_pods: pods.missing.iter().chain(&pods.host_network).take(NAMED).cloned().collect(),
        versions: pods
            .versions
            .iter()
            .map(|(version, count)| VersionCount { version: version.clone(), count: *count })
            .collect(),
    }
}

fn namespaces(observed: &Observed) -> NamespacesStatus {
    NamespacesStatus {
        count: u32::try_from(observed.members.len()).unwrap_or(u32::MAX),
        names: observed.members.iter().take(LISTED).cloned().collect(),
        selector: selector_in_force(&observed.mesh).map(|(selector, _)| selector.clone()),
    }
}
