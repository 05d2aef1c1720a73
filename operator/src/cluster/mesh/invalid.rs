//! Why the spec of a Mesh cannot be in force: each says which field, what it holds and what it should hold.

use bowline_crds::{duration, mesh::rules};
use bowline_proxy::contract::bootstrap::ports;

/// Why a Mesh cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// The name cannot be a DNS label.
    #[error("metadata.name {0:?} is no DNS label: make a Mesh with a name of 1 to 63 of a-z, 0-9 and '-'")]
    Name(String),
    /// The trust domain cannot be one.
    #[error("spec.trustDomain {0:?} is no trust domain: use 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain(String),
    /// A life span cannot be read.
    #[error("spec.certificates.{field}: {error}")]
    Lifetime {
        /// Which.
        field: &'static str,
        /// Why.
        error: duration::DurationError,
    },
    /// Life spans are too short, too long or in the wrong order.
    #[error("spec.certificates: {0}")]
    Lifetimes(&'static str),
    /// A fingerprint that is none.
    #[error(
        "{field} holds {found:?}: use SHA-256 fingerprints of 64 lower-case hex digits, as status.certificates.roots shows them"
    )]
    Fingerprint {
        /// Field or annotation.
        field: &'static str,
        /// What it holds.
        found: String,
    },
    /// Two sources at once.
    #[error("spec.certificates.source names a secret and certManager: name one of them")]
    Source,
    /// A share that is none.
    #[error("spec.certificates.rotation.afterPercent is {0}: use 10 to 80")]
    Percent(u8),
    /// The selector cannot be one.
    #[error("{0}")]
    Selector(String),
    /// No pod could have these resources.
    #[error("{0}")]
    Resources(&'static str),
    /// The image cannot be one.
    #[error("{}", rules::IMAGE)]
    Image,
    /// A port that cannot be left alone.
    #[error("spec.injection.{field} holds {port}: use 1 to 65535 without the proxy's own ports {:?}", ports::ALL)]
    Port {
        /// Which list.
        field: &'static str,
        /// The port.
        port: u16,
    },
}
