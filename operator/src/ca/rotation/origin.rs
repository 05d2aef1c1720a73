//! Where the state of a Mesh's CA is to be taken from.

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

/// The copies of a Mesh's state that there are, and what speaks for a new one.
#[derive(Debug, Clone, Copy)]
pub struct Copies<'a> {
    /// Trust domain of the state in the Secret; `None`: it holds none that is good.
    pub secret: Option<&'a str>,
    /// Trust domain of the state that this process remembers.
    pub memory: Option<&'a str>,
    /// Whether status or ConfigMaps show that there was one.
    pub published: bool,
    /// Whether somebody accepted a new root.
    pub accept_new_root: bool,
}

/// Where to take the state from. A state of another trust domain belongs to a Mesh that is gone.
#[must_use]
pub fn origin(copies: Copies<'_>, trust_domain: &str) -> Origin {
    let usable = |of: Option<&str>| of == Some(trust_domain);
    if usable(copies.secret) {
        Origin::Secret
    } else if usable(copies.memory) {
        Origin::Memory
    } else if !copies.published || copies.accept_new_root {
        Origin::Fresh
    } else {
        Origin::Lost
    }
}
