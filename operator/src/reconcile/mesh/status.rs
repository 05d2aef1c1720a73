//! The Mesh's status: a pure function of what was found, what was done and what the status said before.

mod conflicts;
mod rotation;

use std::time::SystemTime;

use bowline_crds::{
    Mesh, MeshStatus,
    conditions::{reasons, types},
    mesh::{NamespacesStatus, ProxiesStatus, VersionCount},
};
use bowline_proxy::contract::bootstrap::VERSION;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use super::{
    fetch::Observed,
    pods::{Counts, NAMED, named},
};
use crate::{
    ca::{issuance::state::CaState, unix_time::unix},
    cluster::mesh::in_force::{mode_in_force, selector_in_force},
    reconcile::{rotation::ensure::Ensured, webhook::standing::Lack},
};

/// Names of member namespaces that are listed at most.
const LISTED: usize = 100;

/// How the reconcile ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is in place.
    Done,
    /// Nothing will happen until somebody does what the message says.
    Stalled {
        /// See [`reasons`].
        reason: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// It failed and is tried again.
    Failed {
        /// See [`reasons`].
        reason: &'static str,
        /// What failed.
        message: String,
    },
    /// Everything is in place, but the source of the CA offers nothing that could replace it; why.
    NoSource(String),
    /// It is being deleted, and workloads hold it.
    Held,
    /// It is being deleted.
    Deleting,
}

impl Verdict {
    /// The same, and that a deletion waits besides, if it does.
    pub(super) fn while_held(mut self, held: bool, observed: &Observed) -> Self {
        if held && let Self::Stalled { message, .. } | Self::Failed { message, .. } = &mut self {
            *message = format!("{message}; {}", self::held(observed));
        }
        self
    }
}

/// What a status is made of.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What was found.
    pub observed: &'a Observed,
    /// The CA, if there is one.
    pub ca: Option<&'a CaState>,
    /// What was done to it, and who is waited for.
    pub rotation: Option<&'a Ensured>,
    /// How the reconcile ended.
    pub verdict: &'a Verdict,
    /// What the webhook lacks, if anything.
    pub webhook: Option<&'a Lack>,
    /// Time of the reconcile.
    pub now: SystemTime,
}

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

/// A condition without generation and time.
struct Draft {
    kind: &'static str,
    holds: Option<bool>,
    reason: &'static str,
    message: String,
}

fn draft(kind: &'static str, holds: bool, reason: &'static str, message: impl Into<String>) -> Draft {
    Draft { kind, holds: Some(holds), reason, message: message.into() }
}

impl Draft {
    /// The time of the last transition stays while the status does.
    fn finish(self, mesh: &Mesh, before: &[Condition], now: SystemTime) -> Condition {
        let status = match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let unchanged = before.iter().find(|c| c.type_ == self.kind && c.status == status);
        Condition {
            type_: self.kind.into(),
            status: status.into(),
            reason: self.reason.into(),
            message: bounded(self.message),
            observed_generation: mesh.metadata.generation,
            last_transition_time: unchanged.map_or_else(|| time(unix(now)), |c| c.last_transition_time.clone()),
        }
    }
}

/// The API takes messages of at most 32 KiB; nobody reads that many.
fn bounded(mut message: String) -> String {
    const MOST: usize = 2048;
    if message.len() > MOST {
        message.truncate(message.floor_char_boundary(MOST - 4));
        message.push_str(" ...");
    }
    message
}

fn conditions(facts: Facts<'_>, before: &MeshStatus) -> Vec<Draft> {
    let as_expected = |kind| draft(kind, false, reasons::AS_EXPECTED, "");
    let mut all = match facts.verdict {
        Verdict::Done | Verdict::NoSource(_) => match (conflicts::with_older(facts.observed), unasked(facts, before)) {
            (Some(message), _) => stalled(reasons::NAMESPACE_CONFLICT, &message),
            (None, Some(message)) => reconciling(false, reasons::WEBHOOK_NOT_READY, message),
            (None, None) => vec![
                draft(types::READY, true, reasons::RECONCILED, "everything is in place"),
                as_expected(types::RECONCILING),
                as_expected(types::STALLED),
                rotation::progressing(facts).unwrap_or_else(|| as_expected(types::PROGRESSING)),
            ],
        },
        Verdict::Stalled { reason, message } => stalled(reason, message),
        Verdict::Failed { reason, message } => {
            // What was in place for this generation still is.
            reconciling(was_ready(facts, before), reason, message)
        }
        Verdict::Held => stalled(reasons::WORKLOADS_PRESENT, &held(facts.observed)),
        Verdict::Deleting => reconciling(false, reasons::DELETING, "the Mesh is being deleted"),
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
    let lack = facts.webhook.filter(|lack| match lack.in_force {
        Some(in_force) => !in_force,
        None => !was_ready(facts, before),
    });
    lack.map(|lack| lack.message.as_str())
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

/// What holds a deletion, and what to do.
pub(super) fn held(observed: &Observed) -> String {
    format!(
        "deletion waits for {} meshed pods: {}; remove the label {} from their namespaces and restart them, or annotate the \
         Mesh with {}=true to delete it all the same",
        observed.pods.present.len(),
        named(&observed.pods.present),
        bowline_crds::names::MESH_LABEL,
        bowline_crds::names::FORCE_DELETE_ANNOTATION
    )
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
    match facts.verdict {
        Verdict::Failed { reason, message } | Verdict::Stalled { reason, message } => {
            draft(types::DEGRADED, true, reason, message)
        }
        Verdict::NoSource(message) => draft(types::DEGRADED, true, reasons::NO_AUTHORITY_OFFERED, message),
        _ if facts.webhook.is_some_and(|lack| lack.is_failure) => {
            let message = facts.webhook.map(|lack| lack.message.clone()).unwrap_or_default();
            draft(types::DEGRADED, true, reasons::WEBHOOK_NOT_READY, message)
        }
        _ if !facts.observed.lost.is_empty() => {
            draft(types::DEGRADED, true, reasons::NAMESPACE_CONFLICT, conflicts::told(facts.observed))
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

/// Dates far outside of what certificates know become the epoch.
fn time(seconds: u64) -> Time {
    let at = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    Time(at.unwrap_or(Timestamp::UNIX_EPOCH))
}
