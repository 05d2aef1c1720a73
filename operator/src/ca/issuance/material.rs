//! A certificate, what it chains through, and its key: the part of an authority that is kept beside the ledger.

use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::key::AuthorityKey;
use crate::ca::fingerprint::fingerprint;

/// Most certificates of one chain.
pub const MAX_CHAIN: usize = 6;

/// What is wrong with it. No message repeats what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// No PEM.
    #[error("its certificate is no PEM")]
    Pem,
    /// No X.509 certificate.
    #[error("its certificate cannot be decoded")]
    Certificate,
    /// None, or more than [`MAX_CHAIN`].
    #[error("its chain has no certificate, or more than {MAX_CHAIN}")]
    Chain,
    /// The dates beside it are others.
    #[error("its dates are not those of its certificate")]
    Dates,
    /// The fingerprint beside it is another.
    #[error("its id is not the fingerprint of its certificate")]
    Id,
    /// No key that we can sign with.
    #[error("its key is no P-256 key in PEM (PKCS #8 or SEC 1)")]
    Key,
    /// The key of another certificate.
    #[error("its key is not that of its certificate")]
    ForeignKey,
    /// There is none, and there must be.
    #[error("its key is missing")]
    NoKey,
}

/// See the module.
#[derive(Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Material {
    /// PEM: the certificate, then the intermediates between it and its root.
    pub certificate: String,
    /// PEM, PKCS #8 or SEC 1; wiped when dropped. None for a root whose key is kept elsewhere.
    #[serde(default, with = "wiped", skip_serializing_if = "Option::is_none")]
    pub key: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Material(..)")
    }
}

impl Material {
    /// A certificate and its key.
    #[must_use]
    pub fn new(certificate: &rcgen::Certificate, key: &AuthorityKey) -> Self {
        Self { certificate: certificate.pem(), key: Some(key.to_pem()) }
    }

    /// The certificate, then its intermediates, DER.
    ///
    /// # Errors
    /// When the PEM is damaged.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| MaterialError::Pem)?;
        if chain.is_empty() || chain.len() > MAX_CHAIN { Err(MaterialError::Chain) } else { Ok(chain) }
    }

    /// The certificate, DER.
    ///
    /// # Errors
    /// When the PEM is damaged.
    pub fn der(&self) -> Result<CertificateDer<'static>, MaterialError> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|_| MaterialError::Pem)
    }

    /// The private key.
    ///
    /// # Errors
    /// When there is none, or it is no P-256 key.
    pub fn signing_key(&self) -> Result<AuthorityKey, MaterialError> {
        let key = self.key.as_ref().ok_or(MaterialError::NoKey)?;
        AuthorityKey::from_pem(key).map_err(|_| MaterialError::Key)
    }

    /// NotBefore and NotAfter, in seconds since the Unix epoch.
    ///
    /// # Errors
    /// When the certificate cannot be decoded.
    pub fn dates(&self) -> Result<(u64, u64), MaterialError> {
        dates(&self.der()?)
    }

    /// That certificate, key, dates and id belong together.
    ///
    /// # Errors
    /// Says what does not.
    pub fn check(&self, id: &str, not_before: u64, not_after: u64) -> Result<(), MaterialError> {
        let der = self.chain()?.swap_remove(0);
        let certificate = parse(&der)?;
        if self.dates()? != (not_before, not_after) {
            return Err(MaterialError::Dates);
        }
        if fingerprint(&der) != id {
            return Err(MaterialError::Id);
        }
        if self.key.is_none() {
            return Ok(());
        }
        let key = self.signing_key()?;
        if rcgen::PublicKeyData::der_bytes(&key) == certificate.public_key().subject_public_key.data.as_ref() {
            Ok(())
        } else {
            Err(MaterialError::ForeignKey)
        }
    }
}

/// NotBefore and NotAfter, in seconds since the Unix epoch.
pub(super) fn dates(der: &CertificateDer<'_>) -> Result<(u64, u64), MaterialError> {
    let validity = parse(der)?.validity().clone();
    let date = |at: i64| u64::try_from(at).map_err(|_| MaterialError::Dates);
    Ok((date(validity.not_before.timestamp())?, date(validity.not_after.timestamp())?))
}

pub(super) fn parse<'a>(
    der: &'a CertificateDer<'_>,
) -> Result<x509_parser::certificate::X509Certificate<'a>, MaterialError> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(MaterialError::Certificate),
    }
}

/// Text that is wiped when dropped, as a plain string in JSON.
mod wiped {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(text: &Option<Zeroizing<String>>, s: S) -> Result<S::Ok, S::Error> {
        text.as_ref().map(|t| t.as_str()).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Zeroizing<String>>, D::Error> {
        Option::<String>::deserialize(d).map(|t| t.map(Zeroizing::new))
    }
}
