//! What is to be done to a Mesh's CA: a pure function of its ledger, of what the Mesh asks for, of the evidence and of the time.
//!
//! A rotation is five steps, each a write that waits for its guard ([`super::advance`]): *Staged* (made) → *Distributed* (the new root in every
//! bundle) → *Active* (it signs; the old *retires*) → the old issuing CA goes → the old root goes. What begins one is in [`super::trigger`].

use super::{
    advance::advance,
    evidence::Evidence,
    guard::{Guards, Missing},
    ledger::Ledger,
    policy::{AuthoritySource, Policy},
    trigger,
    write::Write,
};

/// What follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// To be written together; empty: nothing. At most one of them is a step of a rotation.
    pub writes: Vec<Write>,
    /// Who holds the next step.
    pub missing: Missing,
}

/// Decides with all guards.
#[must_use]
pub fn decide(ledger: Option<&Ledger>, policy: &Policy, evidence: &Evidence, now: u64) -> Decision {
    decide_with(ledger, policy, evidence, now, Guards::ALL)
}

/// Decides; see [`Guards`].
#[must_use]
pub fn decide_with(
    ledger: Option<&Ledger>,
    policy: &Policy,
    evidence: &Evidence,
    now: u64,
    guards: Guards,
) -> Decision {
    let Some(ledger) = ledger else {
        let first = if policy.source == AuthoritySource::Unavailable { vec![] } else { vec![Write::First] };
        return Decision { writes: first, ..Decision::default() };
    };
    let mut decision = if ledger.is_steady() {
        Decision { writes: trigger::begin(ledger, policy, now), ..Decision::default() }
    } else if let Some(writes) = trigger::turn_back(ledger, policy, evidence, now) {
        Decision { writes, ..Decision::default() }
    } else if ledger.settled.is_none() {
        Decision { writes: vec![Write::Settle], ..Decision::default() }
    } else if let Some((step, missing)) = advance(ledger, policy, evidence, now, guards) {
        Decision { writes: if missing.is_empty() { vec![step] } else { vec![] }, missing }
    } else {
        Decision::default()
    };
    if decision.writes.is_empty() {
        decision.writes = tidy(ledger, policy, now);
    }
    decision
}

/// What has nothing to do with a rotation.
fn tidy(ledger: &Ledger, policy: &Policy, now: u64) -> Vec<Write> {
    let mut writes = Vec::new();
    if ledger.is_steady() && ledger.rotation.is_some() {
        writes.push(Write::Finish);
    }
    if ledger.leaf_seconds != policy.leaf_lifetime.as_secs() {
        writes.push(Write::LeafSeconds(policy.leaf_lifetime.as_secs()));
    }
    for revoked in ledger.revoked.iter().filter(|r| r.until < now) {
        writes.push(Write::Forget { id: revoked.id.clone() });
    }
    if ledger.bundle_sequence < policy.published_sequence {
        // Somebody restored an older copy: whether its roots are the published ones nobody knows, so it counts as a change.
        writes.push(Write::Sequence(policy.published_sequence + 1));
    }
    writes
}

#[cfg(test)]
mod tests;
