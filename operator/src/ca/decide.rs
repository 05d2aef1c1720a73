//! What is to be done to a Mesh's CA: a pure function of its state, of what the Mesh asks for and of the time.

use std::time::{Duration, SystemTime};

use bowline_crds::mesh::AuthorityPhase;

use super::state::{Authority, CaState, unix};

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
    /// Highest bundle sequence that was ever published, as far as status and ConfigMaps tell: proxies never go back below it.
    pub published_sequence: u64,
}

/// One change of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The first root, and with it the first state.
    FirstRoot,
    /// A new issuing CA below the root of this id; the one that signed so far retires.
    Issuer {
        /// Id of the root.
        root: String,
    },
    /// An expired issuing CA goes: nothing that it signed is valid any more.
    DropIssuer {
        /// Its id.
        id: String,
    },
    /// Leaves live for as long as the Mesh says now.
    LeafSeconds(u64),
    /// The bundle gets this sequence.
    Sequence(u64),
}

/// What is to be done; empty: nothing. Applying all of it and deciding again yields nothing.
#[must_use]
pub fn decide(observed: Option<&CaState>, policy: &Policy, now: SystemTime) -> Vec<Write> {
    let Some(state) = observed else { return vec![Write::FirstRoot] };
    let mut writes = Vec::new();
    if let Some(root) = state.active_root()
        && unix(now) < root.not_after
        && state.active_issuer().is_none_or(|issuer| is_due(issuer, root, now))
    {
        writes.push(Write::Issuer { root: root.id.clone() });
    }
    for issuer in &state.issuers {
        let replaced = issuer.phase != AuthorityPhase::Active;
        if replaced && issuer.not_after < unix(now) {
            writes.push(Write::DropIssuer { id: issuer.id.clone() });
        }
    }
    if state.leaf_seconds != policy.leaf_lifetime.as_secs() {
        writes.push(Write::LeafSeconds(policy.leaf_lifetime.as_secs()));
    }
    if state.bundle_sequence < policy.published_sequence {
        // Somebody restored an older copy: whether its roots are the published ones nobody knows, so it counts as a change.
        writes.push(Write::Sequence(policy.published_sequence + 1));
    }
    writes
}

/// Whether an issuing CA is past half of its life. One that ends with its root cannot be prolonged by another below the same root.
fn is_due(issuer: &Authority, root: &Authority, now: SystemTime) -> bool {
    let half = issuer.not_before + (issuer.not_after - issuer.not_before) / 2;
    unix(now) >= half && issuer.not_after < root.not_after
}

/// When [`decide`] may next have something to do.
#[must_use]
pub fn next_change(state: &CaState) -> Option<SystemTime> {
    let root = state.active_root()?;
    let half = state
        .active_issuer()
        .filter(|i| i.not_after < root.not_after)
        .map(|i| i.not_before + (i.not_after - i.not_before) / 2);
    let dropped = state.issuers.iter().filter(|i| i.phase != AuthorityPhase::Active).map(|i| i.not_after + 1).min();
    half.into_iter().chain(dropped).min().map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s))
}

/// Where a Mesh's state is to be taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The Secret holds a good one.
    Secret,
    /// The Secret lost it, this process remembers it.
    Memory,
    /// There never was one, or its loss was accepted.
    Fresh,
    /// It is lost: a new root would cut every running workload off, so nobody makes one unasked.
    Lost,
}

/// What is known of a Mesh's state.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What the Secret holds.
    pub secret: Option<&'a CaState>,
    /// What this process remembers.
    pub memory: Option<&'a CaState>,
    /// Whether status or ConfigMaps show that there was one.
    pub published: bool,
    /// Whether somebody accepted a new root.
    pub accept_new_root: bool,
}

/// Where to take the state from. A state of another trust domain belongs to a Mesh that is gone.
#[must_use]
pub fn source(known: Known<'_>, trust_domain: &str) -> Source {
    let usable = |state: Option<&CaState>| state.is_some_and(|s| s.trust_domain == trust_domain);
    if usable(known.secret) {
        Source::Secret
    } else if usable(known.memory) {
        Source::Memory
    } else if !known.published || known.accept_new_root {
        Source::Fresh
    } else {
        Source::Lost
    }
}

#[cfg(test)]
mod tests;
