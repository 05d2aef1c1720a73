//! What is to be done to a Mesh's CA: a pure function of its ledger, of what the Mesh asks for, of the evidence and of the time.
//!
//! A rotation is five steps, each a write that waits for its guard ([`advance`]): *Staged* (made) → *Distributed* (the new root in every
//! bundle) → *Active* (it signs; the old *retires*) → the old issuing CA goes → the old root goes. What begins one is in [`trigger`].

pub mod advance;
pub mod origin;
pub mod risk;
pub mod trigger;

use std::time::Duration;

pub use origin::{Known, Origin, origin};

use super::{
    evidence::{Evidence, Guards, Missing},
    ledger::{Id, Ledger, Requests, Write},
};

/// What the Mesh asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Name of the Mesh.
    pub mesh: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Life of roots.
    pub root_lifetime: Duration,
    /// Life of issuing CAs.
    pub issuer_lifetime: Duration,
    /// Life of leaves.
    pub leaf_lifetime: Duration,
    /// Percent of its life after which an authority is replaced.
    pub after_percent: u8,
    /// What users ask for.
    pub requests: Requests,
    /// Roots whose key is compromised.
    pub distrust: Vec<Id>,
    /// Where new authorities come from.
    pub offer: Offer,
    /// Highest bundle sequence that was ever published, as far as status and ConfigMaps tell: proxies never go back below it.
    pub published_sequence: u64,
}

/// Where new authorities come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// The operator makes them.
    BuiltIn,
    /// Somebody else does, and offers these.
    External {
        /// The root.
        root: Id,
        /// The issuing CA.
        issuer: Id,
    },
    /// Somebody else does, and offers nothing (yet).
    Nothing,
}

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
        let first = if policy.offer == Offer::Nothing { vec![] } else { vec![Write::First] };
        return Decision { writes: first, ..Decision::default() };
    };
    let mut decision = if ledger.is_steady() {
        Decision { writes: trigger::begin(ledger, policy, now), ..Decision::default() }
    } else if let Some(writes) = trigger::turn_back(ledger, policy, evidence, now) {
        Decision { writes, ..Decision::default() }
    } else if ledger.settled.is_none() {
        Decision { writes: vec![Write::Settle], ..Decision::default() }
    } else {
        advance::advance(ledger, policy, evidence, now, guards)
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

/// Whether a step is irreversible, so that whom it depends on must be looked up once more before it is taken.
#[must_use]
pub fn is_irreversible(write: &Write) -> bool {
    matches!(write, Write::Activate { .. } | Write::DropIssuer { .. } | Write::DropRoot { .. })
}

#[cfg(test)]
mod tests;
