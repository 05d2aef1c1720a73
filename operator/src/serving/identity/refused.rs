//! Why a leaf is not signed.

use tonic::Code;

use crate::ca::SignError;

/// Why nothing was signed. No message repeats the token or anything of it.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The request is malformed.
    #[error("{0}")]
    Request(String),
    /// Too many requests.
    #[error("{0}")]
    Limited(&'static str),
    /// The token proves nobody.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller is known, and may not have what it asks for.
    #[error("{0}")]
    Denied(String),
    /// Not the caller's fault.
    #[error("{0}")]
    Unavailable(String),
}

impl Refused {
    /// Status that the caller gets.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Request(_) => Code::InvalidArgument,
            Self::Limited(_) => Code::ResourceExhausted,
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Denied(_) => Code::PermissionDenied,
            Self::Unavailable(_) => Code::Unavailable,
        }
    }

    /// Metric label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Request(_) => "malformed",
            Self::Limited(_) => "limited",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Denied(_) => "denied",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

impl From<SignError> for Refused {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Names { .. } => Self::Denied(error.to_string()),
            SignError::IssuerExpired | SignError::NoIssuer | SignError::Crypto(_) => {
                Self::Unavailable(error.to_string())
            }
            SignError::TooLarge(_) | SignError::Malformed(_) | SignError::Signature | SignError::KeyType => {
                Self::Request(error.to_string())
            }
        }
    }
}
