//! Where the state of a Mesh's CA is to be taken from.

use crate::ca::state::CaState;

/// Where a Mesh's state is to be taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
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
pub fn origin(known: Known<'_>, trust_domain: &str) -> Origin {
    let usable = |state: Option<&CaState>| state.is_some_and(|s| s.trust_domain == trust_domain);
    if usable(known.secret) {
        Origin::Secret
    } else if usable(known.memory) {
        Origin::Memory
    } else if !known.published || known.accept_new_root {
        Origin::Fresh
    } else {
        Origin::Lost
    }
}
