//! The part of a Mesh's CA that is no secret: which roots and issuing CAs there are, and where each stands in its life.

use bowline_crds::mesh::{AuthorityPhase, RotationCause, RotationKind};
use serde::{Deserialize, Serialize};

use crate::cluster::mesh::rotation::Requests;

/// Most roots or issuers of one Mesh; most revoked roots that are remembered.
pub const MAX_AUTHORITIES: usize = 16;

/// SHA-256 over a certificate's DER, lower-case hex.
pub type Id = String;

/// A root or issuing CA.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Fingerprint of its certificate.
    pub id: Id,
    /// For an issuer: the root that it chains to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Id>,
    /// Where it stands in its life.
    pub phase: AuthorityPhase,
    /// When that phase began; for a retiring root: when its last issuer went, once it has. Seconds since the Unix epoch.
    pub since: u64,
    /// Seconds since the Unix epoch.
    pub not_before: u64,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
    /// For a root: the bundle that was the first to hold it; 0: none yet.
    #[serde(default)]
    pub sequence: u64,
    /// For an issuer: the longest life of a leaf that it may have signed, in seconds.
    #[serde(default)]
    pub longest_leaf: u64,
    /// Whether it came from somewhere else and cannot be renewed by the operator.
    #[serde(default)]
    pub external: bool,
}

impl Entry {
    /// NewAuthorities, but not in use yet.
    pub(super) fn is_new(&self) -> bool {
        matches!(self.phase, AuthorityPhase::Staged | AuthorityPhase::Distributed)
    }
}

/// A root that was dropped because its key is compromised.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, Hash)]
pub struct Revoked {
    /// Its fingerprint.
    pub id: Id,
    /// Until when bundles name it, in seconds since the Unix epoch: no certificate below it is valid any more.
    pub until: u64,
}

/// A rotation under way.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, Hash)]
pub struct Rotation {
    /// What is replaced.
    pub kind: RotationKind,
    /// Why.
    pub cause: RotationCause,
    /// When it began, in seconds since the Unix epoch.
    pub began: u64,
}

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Raised with every write.
    pub revision: u64,
    /// Raised with every change of what bundles say; never lowered.
    pub bundle_sequence: u64,
    /// Life of leaves, in seconds: so that every replica signs alike, whatever it knows of the Mesh yet.
    pub leaf_seconds: u64,
    /// Within how many seconds leaves of other issuing CAs than the active one are to be renewed.
    #[serde(default)]
    pub renew_within: u32,
    /// Oldest first.
    pub roots: Vec<Entry>,
    /// Oldest first.
    pub issuers: Vec<Entry>,
    /// Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Revoked>,
    /// The rotation under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// A time at which its last step was in effect for certain, in seconds since the Unix epoch. Who writes a step does not know when the write
    /// takes effect, and until then the step before it is in force: only who has read it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<u64>,
    /// What users asked for and got.
    #[serde(default)]
    pub handled: Requests,
}

impl Ledger {
    /// The issuing CA that signs.
    #[must_use]
    pub fn active_issuer(&self) -> Option<&Entry> {
        self.issuers.iter().rev().find(|a| a.phase == AuthorityPhase::Active)
    }

    /// The root below which it stands.
    #[must_use]
    pub fn active_root(&self) -> Option<&Entry> {
        self.roots.iter().rev().find(|a| a.phase == AuthorityPhase::Active)
    }

    /// The issuing CA of the control plane's own leaves: the oldest in use that is valid. What has been trusted for longest is trusted by
    /// those who missed the latest bundle too.
    #[must_use]
    pub fn serving_issuer(&self, now: u64) -> Option<&Entry> {
        let mut in_use = self.issuers.iter().filter(|i| !i.is_new());
        in_use.find(|i| now < i.not_after).or_else(|| self.active_issuer())
    }

    /// Roots that bundles hold.
    pub fn trusted_roots(&self) -> impl Iterator<Item = &Entry> {
        self.roots.iter().filter(|a| a.phase != AuthorityPhase::Staged)
    }

    /// Whether anything is on its way in or out.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        self.roots.iter().chain(&self.issuers).all(|e| e.phase == AuthorityPhase::Active)
    }

    /// Issuing CAs below a root.
    pub fn issuers_of<'a>(&'a self, root: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.issuers.iter().filter(move |i| i.root.as_deref() == Some(root))
    }
}
