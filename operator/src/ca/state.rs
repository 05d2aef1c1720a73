//! What the Secret `bowline-ca` holds for a Mesh, as JSON under the key `MESH.json`: every root and issuing CA with its phase. The
//! model holds several of each, so that they can be replaced one after the other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bowline_crds::mesh::AuthorityPhase;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::key::AuthorityKey;

/// Version of the format; a higher one is refused, so that an older operator never rewrites what it does not understand.
pub const FORMAT: u32 = 1;
/// Most roots or issuers of one Mesh.
pub const MAX_AUTHORITIES: usize = 16;

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
    /// A certificate or key is damaged, or they do not belong together.
    #[error("authority {id}: {fault}")]
    Authority {
        /// Which.
        id: String,
        /// What is wrong.
        fault: &'static str,
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
    /// Life of leaves, in seconds: so that every replica signs alike, whatever it knows of the Mesh yet.
    pub leaf_seconds: u64,
    /// Raised with every change of the set of roots; never lowered.
    pub bundle_sequence: u64,
    /// Oldest first.
    pub roots: Vec<Authority>,
    /// Oldest first.
    pub issuers: Vec<Authority>,
}

/// A root or issuing CA.
#[derive(Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// Unique in its list: the first 16 hex digits of the certificate's SHA-256.
    pub id: String,
    /// For an issuer: the root that signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Where it stands in its life.
    pub phase: AuthorityPhase,
    /// Seconds since the Unix epoch.
    pub created_at: u64,
    /// Seconds since the Unix epoch.
    pub not_before: u64,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
    /// PEM.
    pub certificate: String,
    /// PKCS #8, PEM; wiped when dropped.
    #[serde(with = "wiped")]
    pub key: Zeroizing<String>,
}

impl std::fmt::Debug for CaState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaState")
            .field("mesh", &self.mesh)
            .field("bundle_sequence", &self.bundle_sequence)
            .field("roots", &self.roots)
            .field("issuers", &self.issuers)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("id", &self.id)
            .field("phase", &self.phase)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// The certificate, DER.
    ///
    /// # Errors
    /// When the PEM is damaged.
    pub fn der(&self) -> Result<CertificateDer<'static>, StateError> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|_| self.fault("its certificate is no PEM"))
    }

    /// SHA-256 over the certificate's DER, lower-case hex.
    ///
    /// # Errors
    /// When the PEM is damaged.
    pub fn fingerprint(&self) -> Result<String, StateError> {
        Ok(fingerprint(&self.der()?))
    }

    /// The private key.
    ///
    /// # Errors
    /// When the PEM is damaged or no P-256 key.
    pub fn signing_key(&self) -> Result<AuthorityKey, StateError> {
        AuthorityKey::from_pem(&self.key).map_err(|_| self.fault("its key is no P-256 key in PKCS #8 PEM"))
    }

    /// End of its validity.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_after)
    }

    fn fault(&self, fault: &'static str) -> StateError {
        StateError::Authority { id: self.id.chars().take(16).collect(), fault }
    }

    /// That certificate, key, dates and id belong together.
    pub(crate) fn check(&self) -> Result<(), StateError> {
        let der = self.der()?;
        let (rest, cert) =
            x509_parser::parse_x509_certificate(&der).map_err(|_| self.fault("its certificate cannot be decoded"))?;
        if !rest.is_empty() {
            return Err(self.fault("its certificate has trailing bytes"));
        }
        let validity = cert.validity();
        if u64::try_from(validity.not_after.timestamp()) != Ok(self.not_after)
            || u64::try_from(validity.not_before.timestamp()) != Ok(self.not_before)
        {
            return Err(self.fault("its dates are not those of its certificate"));
        }
        let key = self.signing_key()?;
        if rcgen::PublicKeyData::der_bytes(&key) != cert.public_key().subject_public_key.data.as_ref() {
            return Err(self.fault("its key is not that of its certificate"));
        }
        if !fingerprint(&der).starts_with(&self.id) || self.id.len() != 16 {
            return Err(self.fault("its id is not the beginning of its fingerprint"));
        }
        Ok(())
    }
}

/// SHA-256, lower-case hex.
#[must_use]
pub fn fingerprint(der: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(der).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
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
        for list in [&state.roots, &state.issuers] {
            if list.is_empty() || list.len() > MAX_AUTHORITIES {
                return Err(StateError::Count(list.len()));
            }
            for authority in list {
                authority.check()?;
            }
        }
        Ok(state)
    }

    /// As it is written.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        // Strings, numbers and unit variants: nothing in it can fail to serialise.
        Zeroizing::new(serde_json::to_vec(self).unwrap_or_default())
    }

    /// The issuer that signs.
    #[must_use]
    pub fn active_issuer(&self) -> Option<&Authority> {
        self.issuers.iter().rev().find(|a| a.phase == AuthorityPhase::Active)
    }

    /// The root below which new issuers are made.
    #[must_use]
    pub fn active_root(&self) -> Option<&Authority> {
        self.roots.iter().rev().find(|a| a.phase == AuthorityPhase::Active)
    }

    /// Roots that workloads trust.
    pub fn trusted_roots(&self) -> impl Iterator<Item = &Authority> {
        self.roots.iter().filter(|a| a.phase != AuthorityPhase::Staged)
    }

    /// The bundle, PEM.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.trusted_roots().map(|a| format!("{}\n", a.certificate.trim_end())).collect()
    }
}

/// Text that is wiped when dropped, as a plain string in JSON.
mod wiped {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(text: &Zeroizing<String>, s: S) -> Result<S::Ok, S::Error> {
        text.as_str().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(d).map(Zeroizing::new)
    }
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
