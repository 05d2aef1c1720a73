//! What a status is made of.

use std::time::SystemTime;

use crate::{
    ca::issuance::state::CaState,
    reconcile::{
        mesh::{fetch::Observed, pods::named},
        rotation::ensure::Ensured,
        webhook::status::NotReady,
    },
};

/// How the reconcile ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReconcileOutcome {
    /// Everything is in place.
    Done,
    /// Nothing will happen until somebody does what the message says.
    Stalled {
        /// See [`reasons`].
        reason: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// It failed and is tried again.
    Failed {
        /// See [`reasons`].
        reason: &'static str,
        /// What failed.
        message: String,
    },
    /// Everything is in place, but the source of the CA offers nothing that could replace it; why.
    NoSource(String),
    /// It is being deleted, and workloads hold it.
    Held,
    /// It is being deleted.
    Deleting,
}

impl ReconcileOutcome {
    /// The same, and that a deletion waits besides, if it does.
    pub(in crate::reconcile::mesh) fn while_held(mut self, held: bool, observed: &Observed) -> Self {
        if held && let Self::Stalled { message, .. } | Self::Failed { message, .. } = &mut self {
            *message = format!("{message}; {}", held_by(observed));
        }
        self
    }
}

/// What a status is made of.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What was found.
    pub observed: &'a Observed,
    /// The CA, if there is one.
    pub ca: Option<&'a CaState>,
    /// What was done to it, and who is waited for.
    pub rotation: Option<&'a Ensured>,
    /// How the reconcile ended.
    pub outcome: &'a ReconcileOutcome,
    /// Why the webhook is not ready for the Mesh, if it is not.
    pub webhook: Option<&'a NotReady>,
    /// Time of the reconcile.
    pub now: SystemTime,
}

/// What holds a deletion, and what to do.
pub(super) fn held_by(observed: &Observed) -> String {
    format!(
        "deletion waits for {} meshed pods: {}; remove the label {} from their namespaces and restart them, or annotate the \
         Mesh with {}=true to delete it all the same",
        observed.pods.present.len(),
        named(&observed.pods.present),
        bowline_crds::names::MESH_LABEL,
        bowline_crds::names::FORCE_DELETE_ANNOTATION
    )
}
