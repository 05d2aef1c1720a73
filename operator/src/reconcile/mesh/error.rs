//! Why a reconcile failed, and what the status says about it.

use std::time::Duration;

use bowline_crds::{conditions::reasons, names::NEW_ROOT_ANNOTATION};

use super::{apply::ApplyError, fetch::Observed, new_root, status::facts::ReconcileOutcome};
use crate::{
    ca::issuance::source_error::SourceError,
    cluster::mesh::invalid::InvalidSpec,
    reconcile::{api_error::Cause, rotation::ensure::EnsureError},
    runtime::config::CA_SECRET,
};

/// Looked at again after this long, whatever else happens.
pub(super) const RESYNC: Duration = Duration::from_secs(3600);
/// The same where the CA comes from somewhere else.
pub(super) const SOURCE_RESYNC: Duration = Duration::from_secs(15);

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The spec asks for what cannot be.
    #[error(transparent)]
    Invalid(#[from] InvalidSpec),
    /// There is no CA.
    #[error(transparent)]
    Ca(#[from] EnsureError),
    /// The CA is to come from somewhere that offers none.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The webhook's configuration could not be brought in line.
    #[error("MutatingWebhookConfiguration: {0}")]
    Webhook(kube::Error),
}

impl ReconcileError {
    /// What the status says about it.
    pub(super) fn outcome(&self, observed: &Observed, namespace: &str) -> ReconcileOutcome {
        let message = self.to_string();
        let failed = |cause: Cause| ReconcileOutcome::Failed {
            reason: cause.reason(),
            message: format!("{message}{}", cause.remedy()),
        };
        match self {
            Self::Invalid(_) => ReconcileOutcome::Stalled { reason: reasons::INVALID_SPEC, message },
            Self::Ca(EnsureError::StateLost(_)) => ReconcileOutcome::Stalled {
                reason: reasons::CA_STATE_LOST,
                message: format!(
                    "{message}: restore Secret {namespace}/{CA_SECRET} from a backup, or annotate the Mesh with \
                     {NEW_ROOT_ANNOTATION}={} to have a new root made, which cuts off every workload that is running until its \
                     certificate is renewed",
                    new_root::lost(observed)[0]
                ),
            },
            Self::Source(SourceError::Taken { .. }) => {
                ReconcileOutcome::Stalled { reason: reasons::NO_AUTHORITY_OFFERED, message }
            }
            Self::Source(SourceError::Secret { .. }) => {
                ReconcileOutcome::Failed { reason: reasons::NO_AUTHORITY_OFFERED, message }
            }
            Self::Ca(EnsureError::Api(e)) | Self::Webhook(e) => failed(Cause::of(e)),
            Self::Apply(e) => failed(e.cause()),
            _ => failed(Cause::Other),
        }
    }

    /// When to look again at what somebody must mend; `None`: it is worth another try soon.
    pub(super) fn next_look(&self) -> Option<Duration> {
        match self {
            Self::Invalid(_) | Self::Ca(EnsureError::StateLost(_)) => Some(RESYNC),
            // Its owner may let go of it without anything else changing.
            Self::Source(SourceError::Taken { .. }) => Some(SOURCE_RESYNC),
            _ => None,
        }
    }
}
