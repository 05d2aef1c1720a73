//! What is known of those who depend on a Mesh's CA: proxies, replicas of the operator, and namespaces whose pods mount the bundle.

use super::ledger::Id;

/// What a proxy said last on a stream that is open.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Report {
    /// Sequence of the bundle that its new handshakes verify against.
    pub bundle_sequence: u64,
    /// Issuing CA of its leaf.
    pub issuer: Id,
}

/// A live pod with a proxy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// `NAMESPACE/POD`.
    pub name: String,
    /// One for each stream that is open, from either slot; `None`: it has not reported on it yet.
    pub streams: Vec<Option<Report>>,
    /// Its clock minus ours when it asked for its last leaf, in seconds.
    pub skew: Option<i64>,
}

/// What a replica of the operator answered when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holding {
    /// Revision of the ledger that it signs, verifies and serves with.
    pub revision: u64,
    /// Issuing CA of the leaf that it serves with.
    pub issuer: Id,
}

/// A live pod of the operator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Replica {
    /// `NAMESPACE/POD`.
    pub name: String,
    /// `None`: it does not answer.
    pub holds: Option<Holding>,
}

/// Everything that guards look at, gathered after the ledger was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Evidence {
    /// Since when this leader gathers evidence, in seconds since the Unix epoch: before, nobody can have been heard of.
    pub watched_since: u64,
    /// Every live pod with a proxy.
    pub proxies: Vec<Proxy>,
    /// Every live replica.
    pub replicas: Vec<Replica>,
    /// Every namespace in which pods mount the bundle.
    pub mounts: Vec<Mount>,
}

/// The bundle that pods of a namespace mount when they start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mount {
    /// The namespace.
    pub namespace: String,
    /// Sequence of the bundle; 0: none that can be read.
    pub sequence: u64,
}
