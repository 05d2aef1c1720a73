//! Labels that metrics of several parts carry.

use prometheus_client::encoding::EncodeLabelSet;

/// Label `mesh`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MeshLabel {
    /// Name of the Mesh.
    pub mesh: String,
}
