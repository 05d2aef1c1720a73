//! Labels that metrics of several rooms have in common.

use prometheus_client::encoding::EncodeLabelSet;

/// Label `mesh`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MeshLabel {
    /// Name of the Mesh.
    pub mesh: String,
}

/// Labels `mesh`, `kind` (`root`, `issuer`) and `fingerprint`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AuthorityLabels {
    /// Name of the Mesh.
    pub mesh: String,
    /// `root` or `issuer`.
    pub kind: &'static str,
    /// First 16 hex digits of the certificate's SHA-256.
    pub fingerprint: String,
}
