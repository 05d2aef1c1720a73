//! What the Secret `bowline-ca` holds for a Mesh, as JSON under the key `MESH.json`: the [`Ledger`] of its roots and issuing CAs, and the
//! certificate and key of each.

use std::collections::BTreeMap;

use bowline_crds::mesh::AuthorityPhase;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::material::{Material, MaterialError};
pub use crate::ca::fingerprint::fingerprint;
use crate::ca::rotation::ledger::{Entry, Id, Ledger, MAX_AUTHORITIES};

/// Version of the format; a higher one is refused, so that an older operator never rewrites what it does not understand.
pub const FORMAT: u32 = 1;

/// Why a state cannot be used. No message repeats what the Secret holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// No JSON of this shape.
    #[error("it is no CA state in JSON (line {line}, column {column})")]
    Json {
        /// Line of the fault.
        line: usize,
        /// Column of the fault.
        column: usize,
    },
    /// Written by a newer operator.
    #[error("its format {0} is newer than {FORMAT}, which this operator understands: upgrade the operator")]
    Format(u32),
    /// Of another Mesh.
    #[error("it is the state of Mesh {0:?}")]
    Mesh(String),
    /// A certificate or key is missing or damaged, or they do not belong together.
    #[error("authority {id}: {fault}")]
    Authority {
        /// Which: the beginning of its fingerprint.
        id: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// The same of its certificate or key.
    #[error("authority {id}: {fault}")]
    Material {
        /// Which: the beginning of its fingerprint.
        id: String,
        /// What is wrong.
        fault: MaterialError,
    },
    /// Too many, or none.
    #[error("it holds {0} authorities: 1 to {MAX_AUTHORITIES} are possible")]
    Count(usize),
}

/// CA state of one Mesh.
#[derive(Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CaState {
    /// See [`FORMAT`].
    pub format: u32,
    /// Name of the Mesh.
    pub mesh: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// What there is and where it stands.
    #[serde(flatten)]
    pub ledger: Ledger,
    /// Certificates and keys of everything in the ledger.
    pub material: BTreeMap<Id, Material>,
}

impl std::fmt::Debug for CaState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaState").field("mesh", &self.mesh).field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

fn short(id: &str) -> String {
    id.chars().take(16).collect()
}

impl CaState {
    /// Key of a Mesh's state in the Secret.
    #[must_use]
    pub fn secret_key(mesh: &str) -> String {
        format!("{mesh}.json")
    }

    /// Reads and checks what the Secret holds.
    ///
    /// # Errors
    /// When any part is damaged: a state is usable as a whole or not at all.
    pub fn parse(mesh: &str, bytes: &[u8]) -> Result<Self, StateError> {
        let state: Self =
            serde_json::from_slice(bytes).map_err(|e| StateError::Json { line: e.line(), column: e.column() })?;
        if state.format > FORMAT {
            return Err(StateError::Format(state.format));
        }
        if state.mesh != mesh {
            return Err(StateError::Mesh(state.mesh.chars().take(63).collect()));
        }
        for list in [&state.ledger.roots, &state.ledger.issuers] {
            if list.is_empty() || list.len() > MAX_AUTHORITIES {
                return Err(StateError::Count(list.len()));
            }
            for entry in list {
                let fault = |fault| StateError::Material { id: short(&entry.id), fault };
                let material = state.material(&entry.id)?;
                material.check(&entry.id, entry.not_before, entry.not_after).map_err(fault)?;
                let must_sign = entry.root.is_some() || !entry.external;
                if must_sign && material.key.is_none() {
                    return Err(fault(MaterialError::NoKey));
                }
            }
        }
        state.check_signer()?;
        Ok(state)
    }

    /// That something signs, below a root that is held.
    fn check_signer(&self) -> Result<(), StateError> {
        let active = self.ledger.active_issuer().ok_or(StateError::Count(0))?;
        let root = self.ledger.roots.iter().find(|r| Some(&r.id) == active.root.as_ref());
        if root.is_some_and(|r| r.phase != AuthorityPhase::Staged) {
            Ok(())
        } else {
            Err(StateError::Authority { id: short(&active.id), fault: "its root is not trusted" })
        }
    }

    /// As it is written.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        // Strings, numbers and unit variants: nothing in it can fail to serialise.
        Zeroizing::new(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Certificate and key of an authority.
    ///
    /// # Errors
    /// When there is none.
    pub fn material(&self, id: &str) -> Result<&Material, StateError> {
        let fault = "its certificate is missing";
        self.material.get(id).ok_or_else(|| StateError::Authority { id: short(id), fault })
    }

    /// Certificate of an authority, DER.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn der(&self, id: &str) -> Result<CertificateDer<'static>, StateError> {
        self.material(id)?.der().map_err(|fault| StateError::Material { id: short(id), fault })
    }

    /// The bundle, PEM.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        let pem = |root: &Entry| self.material.get(&root.id).map(|m| format!("{}\n", m.certificate.trim_end()));
        self.ledger.trusted_roots().filter_map(pem).collect()
    }

    /// Forgets certificates and keys of what is in the ledger no more.
    pub fn sweep(&mut self) {
        let ledger = &self.ledger;
        self.material.retain(|id, _| ledger.roots.iter().chain(&ledger.issuers).any(|e| e.id == *id));
    }
}

#[cfg(test)]
mod tests;
