//! Whether plaintext is accepted.

use serde::{Deserialize, Serialize};

/// Whether plaintext is accepted.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Mtls {
    /// `Strict`: meshed pods accept only mutual TLS. `Permissive`: plaintext too, while a cluster adopts the mesh.
    pub mode: MtlsMode,
}

/// See [`Mtls::mode`].
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MtlsMode {
    /// Only mutual TLS.
    #[default]
    Strict,
    /// Plaintext too.
    Permissive,
}
