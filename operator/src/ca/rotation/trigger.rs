//! What begins a rotation, and what turns one back.

use std::collections::BTreeSet;

use bowline_crds::mesh::{AuthorityPhase, RotationCause, RotationKind};

use super::policy::{AuthoritySource, Policy};
use crate::{
    ca::rotation::{
        evidence::Evidence,
        ledger::{Entry, Ledger},
        write::Write,
    },
    cluster::mesh::rotation::Requests,
};

/// Renewals of leaves per second that a rotation aims at, over all replicas.
const RENEWALS_PER_SECOND: usize = 50;
/// The same when the root is compromised.
const EMERGENCY_RENEWALS_PER_SECOND: usize = 200;

/// The seconds over which proxies spread the renewal of their leaves.
pub(super) fn renew_within(evidence: &Evidence, emergency: bool) -> u32 {
    let rate = if emergency { EMERGENCY_RENEWALS_PER_SECOND } else { RENEWALS_PER_SECOND };
    u32::try_from(evidence.proxies.len() / rate).unwrap_or(u32::MAX).clamp(1, 3600)
}

/// Whether so much of its life is over that it is to be replaced.
#[must_use]
pub fn is_due(entry: &Entry, percent: u8, now: u64) -> bool {
    now >= due_at(entry, percent)
}

/// When it is to be replaced.
#[must_use]
pub fn due_at(entry: &Entry, percent: u8) -> u64 {
    let life = entry.not_after.saturating_sub(entry.not_before);
    entry.not_before + life / 100 * u64::from(percent)
}

/// When a steady ledger will next need something.
#[must_use]
pub fn next_due(ledger: &Ledger, percent: u8) -> Option<u64> {
    let root = ledger.active_root()?;
    let issuer = ledger.active_issuer().filter(|i| i.not_after < root.not_after);
    let revoked = ledger.revoked.iter().map(|r| r.until + 1);
    issuer.into_iter().chain([root]).filter(|e| !e.external).map(|e| due_at(e, percent)).chain(revoked).min()
}

/// The first step of a rotation, if a steady ledger needs one.
pub(super) fn begin(ledger: &Ledger, policy: &Policy, now: u64) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some((kind, cause)) = wanted(ledger, policy, now) {
        writes.push(Write::Stage { kind, cause });
    }
    // A request is dealt with by the rotation that it began, or by one that replaces more; one to abort finds nothing to abort.
    if ledger.handled != policy.requests {
        writes.push(Write::Handled(policy.requests.clone()));
    }
    writes
}

fn wanted(ledger: &Ledger, policy: &Policy, now: u64) -> Option<(RotationKind, RotationCause)> {
    use {RotationCause as Cause, RotationKind as Kind};
    let asked = |now: &BTreeSet<String>, before: &BTreeSet<String>| !now.is_subset(before);
    let (root, issuer) = (ledger.active_root()?, ledger.active_issuer()?);
    match &policy.source {
        AuthoritySource::BuiltIn => {
            if policy.distrust.contains(&root.id) {
                Some((Kind::Root, Cause::Compromised))
            } else if issuer.external || root.external {
                Some((Kind::Root, Cause::Source))
            } else if now >= root.not_after {
                Some((Kind::Root, Cause::Expired))
            } else if is_due(root, policy.after_percent, now) {
                Some((Kind::Root, Cause::Age))
            } else if asked(&policy.requests.root, &ledger.handled.root) {
                Some((Kind::Root, Cause::Requested))
            } else if now >= issuer.not_after {
                Some((Kind::Issuer, Cause::Expired))
            } else if is_due(issuer, policy.after_percent, now) && issuer.not_after < root.not_after {
                // One that ends with its root cannot be prolonged by another below the same root.
                Some((Kind::Issuer, Cause::Age))
            } else if asked(&policy.requests.issuer, &ledger.handled.issuer) {
                Some((Kind::Issuer, Cause::Requested))
            } else {
                None
            }
        }
        AuthoritySource::External { root: offered_root, issuer: offered } if *offered != issuer.id => {
            // What is compromised is not taken again.
            let kind = if *offered_root == root.id { Kind::Issuer } else { Kind::Root };
            let cause = if policy.distrust.contains(&root.id) { Cause::Compromised } else { Cause::Source };
            (!policy.distrust.contains(offered_root)).then_some((kind, cause))
        }
        AuthoritySource::External { .. } | AuthoritySource::Unavailable => None,
    }
}

/// The end of a rotation under way, if somebody asks for it or its new root is compromised.
pub(super) fn turn_back(ledger: &Ledger, policy: &Policy, evidence: &Evidence, now: u64) -> Option<Vec<Write>> {
    let asked = !policy.requests.abort.is_subset(&ledger.handled.abort);
    let handled = Write::Handled(Requests { abort: policy.requests.abort.clone(), ..ledger.handled.clone() });
    let distrusted = |phases: &[AuthorityPhase]| {
        ledger.roots.iter().any(|r| phases.contains(&r.phase) && policy.distrust.contains(&r.id))
    };
    let new = [AuthorityPhase::Staged, AuthorityPhase::Distributed];
    let is_new = ledger.issuers.iter().any(|e| new.contains(&e.phase));
    let step = if is_new {
        (asked || distrusted(&new)).then_some(Write::Abort)
    } else {
        let wanted = asked || distrusted(&[AuthorityPhase::Active]);
        let emergency = distrusted(&[AuthorityPhase::Active]);
        // A rollback is not rolled back: the text that asked for it is the same.
        (wanted && can_roll_back(ledger, policy, now))
            .then(|| Write::RollBack { renew_within: renew_within(evidence, emergency) })
    };
    match (step, asked) {
        (Some(step), true) => Some(vec![step, handled]),
        (Some(step), false) => Some(vec![step]),
        (None, true) => Some(vec![handled]),
        (None, false) => None,
    }
}

/// Whether what retires could sign again: its issuing CA is still there and valid for a while, and its root is not compromised.
fn can_roll_back(ledger: &Ledger, policy: &Policy, now: u64) -> bool {
    ledger.issuers.iter().any(|i| {
        let root = i.root.as_deref().unwrap_or_default();
        i.phase == AuthorityPhase::Retiring
            && now + ledger.leaf_seconds < i.not_after
            && !policy.distrust.iter().any(|d| d == root)
    })
}
