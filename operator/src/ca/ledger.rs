//! The part of a Mesh's CA that is no secret: which roots and issuing CAs there are, where each stands in its life, and how a
//! [`Write`] changes that. Pure: the operator and the model that checks it drive the same functions.

use bowline_crds::mesh::{AuthorityPhase, RotationCause, RotationKind};
use serde::{Deserialize, Serialize};

pub use crate::cluster::mesh::rotation::Requests;

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

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Write {
    /// The first root and issuing CA, and with them the first ledger.
    First,
    /// New authorities, which nobody trusts or uses yet.
    Stage {
        /// What is to be replaced.
        kind: RotationKind,
        /// Why.
        cause: RotationCause,
    },
    /// What is staged goes into the bundle.
    Distribute,
    /// What is distributed signs from now on, and what signed so far retires; leaves are renewed within this many seconds.
    Activate {
        /// See `TrustBundle.renew_within_seconds`.
        renew_within: u32,
    },
    /// A retired issuing CA goes.
    DropIssuer {
        /// Which.
        id: Id,
    },
    /// A retired root goes.
    DropRoot {
        /// Which.
        id: Id,
        /// Whether connections that depend on it are closed at once.
        revoke: bool,
    },
    /// What is staged or distributed goes again.
    Abort,
    /// What retires signs again, and what replaced it retires; leaves are renewed within this many seconds.
    RollBack {
        /// See `TrustBundle.renew_within_seconds`.
        renew_within: u32,
    },
    /// The last step is in effect at this moment for certain, whenever it was written: what it waits for counts from here.
    Settle,
    /// The rotation is over.
    Finish,
    /// Bundles need not name this revoked root any more.
    Forget {
        /// Which.
        id: Id,
    },
    /// Leaves live for as long as the Mesh says now.
    LeafSeconds(u64),
    /// The bundle gets this sequence.
    Sequence(u64),
    /// These requests have been dealt with.
    Handled(Requests),
}

impl Write {
    /// Whether it moves a rotation on or back.
    #[must_use]
    pub fn is_step(&self) -> bool {
        match self {
            Self::Stage { .. }
            | Self::Distribute
            | Self::Activate { .. }
            | Self::DropIssuer { .. }
            | Self::DropRoot { .. }
            | Self::Abort
            | Self::RollBack { .. } => true,
            Self::First
            | Self::Settle
            | Self::Finish
            | Self::Forget { .. }
            | Self::LeafSeconds(_)
            | Self::Sequence(_)
            | Self::Handled(_) => false,
        }
    }
}

/// What was made for [`Write::First`] or [`Write::Stage`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// A new root.
    pub root: Option<Entry>,
    /// A new issuing CA.
    pub issuer: Entry,
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

/// Made, but not in use yet.
fn is_new(entry: &Entry) -> bool {
    matches!(entry.phase, AuthorityPhase::Staged | AuthorityPhase::Distributed)
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
        let mut in_use = self.issuers.iter().filter(|i| !is_new(i));
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

    /// The ledger after a write at `now`; `made` is what [`Write::First`] and [`Write::Stage`] need.
    pub fn apply(&mut self, write: &Write, made: Option<Made>, now: u64) {
        if write.is_step() {
            self.settled = None;
        }
        match write {
            Write::First | Write::Stage { .. } => self.add(write, made, now),
            Write::Distribute => self.distribute(now),
            Write::Activate { renew_within } => {
                self.activate(now);
                self.renew_within = *renew_within;
            }
            Write::DropIssuer { id } => self.drop_issuer(id, now),
            Write::DropRoot { id, revoke } => self.drop_root(id, *revoke, now),
            Write::Abort => {
                let bundled = self.roots.iter().any(|r| r.phase == AuthorityPhase::Distributed);
                self.roots.retain(|e| !is_new(e));
                self.issuers.retain(|e| !is_new(e));
                self.bundle_sequence += u64::from(bundled);
            }
            Write::RollBack { renew_within } => {
                self.roll_back(now);
                self.renew_within = *renew_within;
            }
            Write::Settle => self.settled = Some(now),
            Write::Finish => self.rotation = None,
            Write::Forget { id } => {
                self.revoked.retain(|r| r.id != *id);
                self.bundle_sequence += 1;
            }
            Write::LeafSeconds(seconds) => {
                self.leaf_seconds = *seconds;
                self.stretch();
            }
            Write::Sequence(sequence) => self.bundle_sequence = *sequence,
            Write::Handled(requests) => self.handled = requests.clone(),
        }
        self.revision += 1;
    }

    fn add(&mut self, write: &Write, made: Option<Made>, now: u64) {
        let Some(made) = made else { return };
        let phase = match write {
            Write::Stage { kind, cause } => {
                self.rotation = Some(Rotation { kind: *kind, cause: *cause, began: now });
                AuthorityPhase::Staged
            }
            _ => AuthorityPhase::Active,
        };
        let placed = |entry: Entry| Entry { phase, since: now, ..entry };
        self.roots.extend(made.root.map(placed));
        self.issuers.push(placed(made.issuer));
        if phase == AuthorityPhase::Active {
            self.bundle_sequence += 1;
            for root in &mut self.roots {
                root.sequence = self.bundle_sequence;
            }
            self.stretch();
        }
    }

    /// The active issuing CA signs leaves of the present life from now on.
    fn stretch(&mut self) {
        for issuer in self.issuers.iter_mut().filter(|i| i.phase == AuthorityPhase::Active) {
            issuer.longest_leaf = issuer.longest_leaf.max(self.leaf_seconds);
        }
    }

    fn distribute(&mut self, now: u64) {
        let staged = |e: &&mut Entry| e.phase == AuthorityPhase::Staged;
        if self.roots.iter().any(|r| r.phase == AuthorityPhase::Staged) {
            self.bundle_sequence += 1;
        }
        for root in self.roots.iter_mut().filter(staged) {
            (root.phase, root.since, root.sequence) = (AuthorityPhase::Distributed, now, self.bundle_sequence);
        }
        for issuer in self.issuers.iter_mut().filter(staged) {
            (issuer.phase, issuer.since) = (AuthorityPhase::Distributed, now);
        }
    }

    fn activate(&mut self, now: u64) {
        let new_root = self.roots.iter().any(|r| r.phase == AuthorityPhase::Distributed);
        let step = |list: &mut Vec<Entry>| {
            for entry in list {
                let next = match entry.phase {
                    AuthorityPhase::Active => AuthorityPhase::Retiring,
                    AuthorityPhase::Distributed => AuthorityPhase::Active,
                    _ => continue,
                };
                (entry.phase, entry.since) = (next, now);
            }
        };
        if new_root {
            step(&mut self.roots);
        }
        step(&mut self.issuers);
        self.stretch();
        self.bundle_sequence += 1;
    }

    fn drop_issuer(&mut self, id: &str, now: u64) {
        self.issuers.retain(|i| i.id != id);
        let orphans: Vec<Id> =
            self.roots.iter().filter(|r| self.issuers_of(&r.id).next().is_none()).map(|r| r.id.clone()).collect();
        for root in self.roots.iter_mut().filter(|r| orphans.contains(&r.id)) {
            root.since = now;
        }
    }

    fn drop_root(&mut self, id: &str, revoke: bool, now: u64) {
        self.roots.retain(|r| r.id != id);
        if revoke && !self.revoked.iter().any(|r| r.id == id) {
            if self.revoked.len() == MAX_AUTHORITIES {
                self.revoked.remove(0);
            }
            self.revoked.push(Revoked { id: id.to_owned(), until: now + 2 * self.leaf_seconds });
        }
        self.bundle_sequence += 1;
    }

    fn roll_back(&mut self, now: u64) {
        let swap = |list: &mut Vec<Entry>| {
            let several = list.iter().any(|e| e.phase == AuthorityPhase::Retiring);
            for entry in list.iter_mut().filter(|_| several) {
                let next = match entry.phase {
                    AuthorityPhase::Active => AuthorityPhase::Retiring,
                    AuthorityPhase::Retiring => AuthorityPhase::Active,
                    _ => continue,
                };
                (entry.phase, entry.since) = (next, now);
            }
        };
        swap(&mut self.roots);
        swap(&mut self.issuers);
        self.stretch();
        self.bundle_sequence += 1;
        if let Some(rotation) = &mut self.rotation {
            (rotation.cause, rotation.began) = (RotationCause::RolledBack, now);
        }
    }
}
