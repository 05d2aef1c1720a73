//! One change to a ledger, as the decision orders it and the store writes it down.

use bowline_crds::mesh::{RotationCause, RotationKind};

use super::ledger::{Entry, Id};
use crate::cluster::mesh::rotation::Requests;

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
    /// Whether it cannot be taken back, so that whom it depends on must be looked up once more before.
    #[must_use]
    pub fn is_irreversible(&self) -> bool {
        matches!(self, Self::Activate { .. } | Self::DropIssuer { .. } | Self::DropRoot { .. })
    }

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
pub struct NewAuthorities {
    /// A new root.
    pub root: Option<Entry>,
    /// A new issuing CA.
    pub issuer: Entry,
}
