//! Why the webhook is not as it should be.

use super::probe::ProbeError;
use crate::serving::certificate::state::CertificateError;

/// Why the webhook is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The API server refused.
    #[error("{object}: {error}")]
    Api {
        /// Kind and name.
        object: &'static str,
        /// Why.
        error: kube::Error,
    },
    /// No certificate could be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// This replica does not serve yet, so nobody is sent to it.
    #[error("the webhook server does not answer as it should yet: {0}")]
    NotServing(#[from] ProbeError),
}
