//! What the status says of the certificate authority: every root and issuing CA, the rotation under way, and whether trust is at risk.

use bowline_crds::{
    conditions::{reasons, types},
    mesh::{AuthorityPhase, AuthorityStatus, CertificatesStatus, RotationStatus},
};

use super::{
    condition::{Draft, draft, time},
    facts::Facts,
};
use crate::{
    ca::{
        issuance::{source, state::CaState},
        rotation::{
            evidence::Evidence,
            guard::{Missing, SKEW_BOUND},
            ledger::{Entry, Ledger},
            risk::at_risk,
        },
        unix_time::unix,
    },
    cluster::mesh::rotation,
    reconcile::mesh::pods::NAMED,
};

pub(super) fn certificates(ca: &CaState, facts: Facts<'_>) -> CertificatesStatus {
    let ledger = &ca.ledger;
    let evidence = facts.rotation.and_then(|r| r.evidence.as_ref());
    CertificatesStatus {
        bundle_sequence: ledger.bundle_sequence,
        source: Some(source_name(ledger, facts)),
        root_not_after: ledger.active_root().map(|r| time(r.not_after)),
        rotation: rotation(facts),
        roots: ledger.roots.iter().map(|e| authority(e, ledger, evidence)).collect(),
        issuers: ledger.issuers.iter().map(|e| authority(e, ledger, evidence)).collect(),
    }
}

/// The source that the Mesh names, once nothing of another is in use: until then that other one must not be forgotten.
fn source_name(ledger: &Ledger, facts: Facts<'_>) -> String {
    let wanted = source::name(&facts.observed.mesh.spec.certificates.source);
    let before =
        facts.observed.mesh.status.as_ref().and_then(|s| s.certificates.as_ref()).and_then(|c| c.source.clone());
    match before {
        Some(before) if !ledger.is_steady() => before,
        _ => wanted,
    }
}

fn authority(entry: &Entry, ledger: &Ledger, evidence: Option<&Evidence>) -> AuthorityStatus {
    AuthorityStatus {
        fingerprint: entry.id.clone(),
        phase: entry.phase,
        since: Some(time(entry.since)),
        dependents: evidence.map(|evidence| dependents(entry, ledger, evidence)),
        not_before: time(entry.not_before),
        not_after: time(entry.not_after),
    }
}

/// Proxies with a leaf of it, or of an issuing CA below it.
fn dependents(entry: &Entry, ledger: &Ledger, evidence: &Evidence) -> u32 {
    let depends = |issuer: &str| issuer == entry.id || ledger.issuers_of(&entry.id).any(|i| i.id == issuer);
    let proxies = evidence.proxies.iter().filter(|p| p.streams.iter().flatten().any(|r| depends(&r.issuer)));
    u32::try_from(proxies.count()).unwrap_or(u32::MAX)
}

/// The rotation under way.
fn rotation(facts: Facts<'_>) -> Option<RotationStatus> {
    let ledger = &facts.ca?.ledger;
    let under_way = ledger.rotation.as_ref().filter(|_| !ledger.is_steady())?;
    let (phase, since, next) = step(ledger)?;
    let nobody = Missing::default();
    let missing = facts.rotation.map_or(&nobody, |r| &r.missing);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let namespaces = missing.namespaces.iter().map(|n| format!("Namespace {n}"));
    let names = missing.replicas.iter().chain(&missing.proxies).chain(&missing.skewed).cloned().chain(namespaces);
    Some(RotationStatus {
        kind: under_way.kind,
        cause: under_way.cause,
        phase,
        began: time(under_way.began),
        since: time(since),
        message: message(missing, next),
        waiting_proxies: count(missing.proxies.len() + missing.skewed.len()),
        waiting_replicas: count(missing.replicas.len()),
        waiting_for: names.take(NAMED).collect(),
        waiting_until: missing.until.map(time),
    })
}

/// Phase and begin of the step, and what follows it.
fn step(ledger: &Ledger) -> Option<(AuthorityPhase, u64, &'static str)> {
    let issuer = |phase: AuthorityPhase| ledger.issuers.iter().find(|i| i.phase == phase);
    if let Some(new) = issuer(AuthorityPhase::Staged) {
        return Some((new.phase, new.since, "it is put into every trust bundle"));
    }
    if let Some(new) = issuer(AuthorityPhase::Distributed) {
        return Some((new.phase, new.since, "it signs, and every workload gets a new leaf"));
    }
    if let Some(old) = issuer(AuthorityPhase::Retiring) {
        return Some((old.phase, old.since, "the old issuing CA goes"));
    }
    let old = ledger.roots.iter().find(|r| r.phase == AuthorityPhase::Retiring)?;
    Some((old.phase, old.since, "the old root goes from every trust bundle"))
}

fn message(missing: &Missing, next: &str) -> String {
    let mut parts = Vec::new();
    for (who, what) in [
        (&missing.replicas, "replicas of the operator to take over the state"),
        (&missing.proxies, "proxies to follow"),
        (&missing.skewed, "the clocks of workloads to be set right"),
    ] {
        if !who.is_empty() {
            parts.push(format!("{} {what}", who.len()));
        }
    }
    if !missing.namespaces.is_empty() {
        parts.push(format!("the bundle to reach {} namespaces", missing.namespaces.len()));
    }
    if missing.unseen {
        parts.push("news of pods that have just begun".into());
    }
    if parts.is_empty() { format!("next: {next}") } else { format!("waits for {}; then {next}", parts.join(", ")) }
}

/// Progressing, while a rotation is under way.
pub(super) fn progressing(facts: Facts<'_>) -> Option<Draft> {
    let rotation = rotation(facts)?;
    let message = format!("a rotation of the {:?} ({:?}) {}", rotation.kind, rotation.cause, rotation.message);
    Some(draft(types::PROGRESSING, true, reasons::ROTATING, message))
}

/// What is at risk, and what to do.
pub(super) fn risk(facts: Facts<'_>) -> Option<String> {
    let ledger = &facts.ca?.ledger;
    let now = unix(facts.now);
    if let Some(told) = distrusted(ledger, facts) {
        return Some(told);
    }
    let risk = at_risk(ledger, now)?;
    let when =
        if risk.not_after <= now { "has expired".to_owned() } else { format!("expires at {}", time(risk.not_after).0) };
    let advice = if ledger.is_steady() {
        "ask for a rotation with the annotation bowline.dev/rotate-root, or have its source offer another"
    } else {
        "see status.certificates.rotation for whom the rotation under way waits"
    };
    Some(format!(
        "the {} {} {when}, and a rotation may need {} minutes at its present pace: {advice}",
        risk.what,
        &risk.id[..risk.id.len().min(16)],
        risk.needed / 60
    ))
}

/// A compromised root that the operator cannot replace: only its source can.
fn distrusted(ledger: &Ledger, facts: Facts<'_>) -> Option<String> {
    let distrust = rotation::distrust(&facts.observed.mesh).ok()?;
    let root = ledger.active_root().filter(|r| r.external && ledger.is_steady() && distrust.contains(&r.id))?;
    Some(format!(
        "root {} is named as compromised, and the source {} offers no issuing CA below another: let it offer one, or choose \
         another source",
        &root.id[..root.id.len().min(16)],
        source::name(&facts.observed.mesh.spec.certificates.source)
    ))
}

/// The condition.
pub(super) fn trust(facts: Facts<'_>) -> Draft {
    let skewed =
        |e: &Evidence| e.proxies.iter().filter(|p| p.skew.is_some_and(|s| s.unsigned_abs() > SKEW_BOUND)).count();
    match (risk(facts), facts.rotation.and_then(|r| r.evidence.as_ref()).map_or(0, skewed)) {
        (Some(risk), _) => draft(types::TRUST_AT_RISK, true, reasons::TRUST_AT_RISK, risk),
        (None, 0) => draft(types::TRUST_AT_RISK, false, reasons::AS_EXPECTED, ""),
        (None, n) => draft(
            types::TRUST_AT_RISK,
            false,
            reasons::AS_EXPECTED,
            format!("the clocks of {n} workloads are off by more than {SKEW_BOUND} seconds"),
        ),
    }
}
