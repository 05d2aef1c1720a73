//! Why an external source of a certificate authority offers nothing.

use super::external::ExternalError;

/// Why a source offers nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The Secret cannot be used.
    #[error("Secret {namespace}/{name} offers no issuing CA: {fault}")]
    Secret {
        /// The operator's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        fault: ExternalError,
    },
    /// The Certificate is somebody else's.
    #[error(
        "Certificate {namespace}/{name} belongs to {owner}: choose another \
         spec.certificates.source.certManager.secretName, for which the operator's service account needs Roles of yours{}",
        if *by_hand { ", or delete that Certificate if nobody needs it" } else { "" }
    )]
    Taken {
        /// The operator's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Whose it is.
        owner: String,
        /// No Mesh's.
        by_hand: bool,
    },
    /// The API server refused, perhaps because a role is missing.
    #[error("{kind} {namespace}/{name}: {error}{}", remedy(kind, name, error))]
    Api {
        /// `Secret` or `Certificate`.
        kind: &'static str,
        /// The operator's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        error: kube::Error,
    },
}

fn remedy(kind: &str, name: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(s) if s.code == 403 => format!(
            "; the operator's role covers {kind} bowline-issuer only: give its service account a Role for {kind} {name}"
        ),
        kube::Error::Api(s) if s.code == 404 && kind == "Certificate" => {
            "; install cert-manager, or choose another source".into()
        }
        _ => String::new(),
    }
}
