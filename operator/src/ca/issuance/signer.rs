//! Signs leaves with one issuing CA: X.509-SVIDs (SPIFFE, X509-SVID section 4 and 5).

use std::time::{Duration, SystemTime};

use bowline_proxy::contract::spiffe::SpiffeId;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;

use super::{
    key::AuthorityKey,
    material::{Material, MaterialError, dates},
    sign_error::SignError,
};
use crate::ca::unix_time::{at, whole};

/// How far NotBefore lies in the past, for clocks that are slow.
pub const BACKDATE: Duration = Duration::from_secs(300);

/// A new leaf.
#[derive(Debug, Clone)]
pub struct SignedLeaf {
    /// Leaf first, then the issuing CA; DER.
    pub chain_der: Vec<Vec<u8>>,
    /// End of the leaf's validity.
    pub not_after: SystemTime,
}

/// Signs with one issuing CA.
#[derive(Debug)]
pub struct Signer {
    /// The issuing CA's certificate, then the intermediates between it and its root; DER.
    chain: Vec<CertificateDer<'static>>,
    /// End of its validity.
    not_after: SystemTime,
    issuer: Issuer<'static, AuthorityKey>,
}

impl Signer {
    /// Prepares signing below a root that ends at `root_not_after` (seconds since the Unix epoch): no leaf outlives anything above it.
    ///
    /// # Errors
    /// When certificate or key cannot be used.
    pub fn new(material: &Material, root_not_after: u64) -> Result<Self, MaterialError> {
        let chain = material.chain()?;
        let issuer = Issuer::from_ca_cert_der(&chain[0], material.signing_key()?);
        let mut not_after = root_not_after;
        for certificate in &chain {
            let (_, until) = dates(certificate)?;
            not_after = not_after.min(until);
        }
        Ok(Self { issuer: issuer.map_err(|_| MaterialError::Certificate)?, chain, not_after: at(not_after) })
    }

    pub(super) fn sign(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        dns: Option<&str>,
        life: Duration,
        now: SystemTime,
    ) -> Result<SignedLeaf, SignError> {
        let not_after = (now + life).min(self.not_after);
        if not_after <= now {
            return Err(SignError::IssuerExpired);
        }
        let mut params = leaf_params(now - BACKDATE, not_after);
        params.subject_alt_names.push(SanType::URI(id.as_str().try_into().map_err(crypto)?));
        if let Some(dns) = dns {
            params.subject_alt_names.push(SanType::DnsName(dns.try_into().map_err(crypto)?));
        }
        let leaf = params.signed_by(key, &self.issuer).map_err(crypto)?;
        let chain = std::iter::once(leaf.der()).chain(&self.chain);
        Ok(SignedLeaf { chain_der: chain.map(|c| c.to_vec()).collect(), not_after: whole(not_after) })
    }
}

pub(super) fn crypto(e: rcgen::Error) -> SignError {
    SignError::Crypto(e.to_string())
}

/// What all leaves have in common. The subject is empty, so rcgen marks the subject alternative names critical (RFC 5280, 4.2.1.6).
fn leaf_params(not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = whole(not_before).into();
    params.not_after = whole(not_after).into();
    params.serial_number = Some(serial());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

/// A random serial number of 128 bits, never zero.
pub(crate) fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[15] |= 1;
    SerialNumber::from_slice(&bytes)
}
