//! What a Mesh asks of its certificate authority.

use std::time::Duration;

use super::ledger::Id;
use crate::cluster::mesh::rotation::Requests;

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
    pub source: AuthoritySource,
    /// Highest bundle sequence that was ever published, as far as status and ConfigMaps tell: proxies never go back below it.
    pub published_sequence: u64,
}

/// Where new authorities come from, as far as is known now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthoritySource {
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
    Unavailable,
}
