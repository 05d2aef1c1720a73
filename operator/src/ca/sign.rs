//! Turns certificate signing requests into leaves: X.509-SVIDs (SPIFFE, X509-SVID section 4 and 5) signed by the Mesh's issuing CA.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bowline_proxy::{identity::spiffe::SpiffeId, proto::TrustBundle};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::{crypto::aws_lc_rs::sign::any_ecdsa_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY},
    prelude::FromDer,
};

use super::{
    key::AuthorityKey,
    state::{CaState, StateError},
};

/// Largest certificate signing request, in bytes.
pub const MAX_CSR_BYTES: usize = 4096;
/// How far NotBefore lies in the past, for clocks that are slow.
pub const BACKDATE: Duration = Duration::from_secs(300);

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Larger than [`MAX_CSR_BYTES`].
    #[error("the request has {0} bytes: at most {MAX_CSR_BYTES} are allowed")]
    TooLarge(usize),
    /// No PKCS #10 in DER.
    #[error("the request is no PKCS #10 certificate signing request in DER: {0}")]
    Malformed(&'static str),
    /// Not signed by the key that is in it.
    #[error("the request is not signed with its own key")]
    Signature,
    /// Another kind of key.
    #[error("the request's key is no P-256 key: use ECDSA on P-256")]
    KeyType,
    /// Other names than the workload's own.
    #[error("the request asks for {found}: its only subject alternative name must be the URI {expected}")]
    Names {
        /// What it asks for.
        found: String,
        /// What it may ask for.
        expected: String,
    },
    /// The issuing CA has expired, or would before the leaf could be used.
    #[error("the issuing CA of Mesh {0} has expired: see the Mesh's status")]
    IssuerExpired(String),
    /// The signature failed.
    #[error("the leaf cannot be made: {0}")]
    Crypto(String),
}

/// A new leaf.
#[derive(Debug, Clone)]
pub struct SignedLeaf {
    /// Leaf first, then the issuing CA; DER.
    pub chain_der: Vec<Vec<u8>>,
    /// End of the leaf's validity.
    pub not_after: SystemTime,
}

/// Signs for one Mesh.
#[derive(Debug)]
pub struct MeshCa {
    /// Name of the Mesh.
    pub mesh: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Life of leaves, unless the issuing CA ends earlier.
    pub leaf_lifetime: Duration,
    /// What workloads trust.
    pub bundle: TrustBundle,
    /// The issuing CA's certificate, DER.
    pub issuer_der: CertificateDer<'static>,
    /// End of its validity.
    pub issuer_not_after: SystemTime,
    issuer: Issuer<'static, AuthorityKey>,
}

impl MeshCa {
    /// Prepares signing with the active issuer of a state.
    ///
    /// # Errors
    /// When there is no active issuer, or something in the state is damaged.
    pub fn new(state: &CaState) -> Result<Self, StateError> {
        let active = state.active_issuer().ok_or(StateError::Count(0))?;
        let issuer_der = active.der()?;
        let issuer = Issuer::from_ca_cert_der(&issuer_der, active.signing_key()?)
            .map_err(|_| StateError::Authority { id: active.id.clone(), fault: "its certificate is no CA's" })?;
        let roots = state.trusted_roots().map(|a| Ok(a.der()?.to_vec())).collect::<Result<_, StateError>>()?;
        Ok(Self {
            mesh: state.mesh.clone(),
            trust_domain: state.trust_domain.clone(),
            leaf_lifetime: Duration::from_secs(state.leaf_seconds),
            bundle: TrustBundle {
                trust_domain: state.trust_domain.clone(),
                sequence: state.bundle_sequence,
                roots_der: roots,
                ..TrustBundle::default()
            },
            issuer_not_after: active.expires(),
            issuer_der,
            issuer,
        })
    }

    /// Checks a request (PKCS #10, DER) and signs a leaf for `id`, whom the caller has authenticated. The request's only subject
    /// alternative name must be `id`; nothing else in it is honoured.
    ///
    /// # Errors
    /// Says what is wrong with the request; see [`SignError`].
    pub fn sign_leaf(&self, csr_der: &[u8], id: &SpiffeId, now: SystemTime) -> Result<SignedLeaf, SignError> {
        let key = verified_key(csr_der, id)?;
        self.issue(&key, id, None, now)
    }

    /// Makes a key and a leaf for the control server of this Mesh: SPIFFE ID and the DNS name `sni`.
    ///
    /// # Errors
    /// When the issuing CA has expired or `sni` is no DNS name.
    pub fn issue_serving(&self, sni: &str, id: &SpiffeId, now: SystemTime) -> Result<CertifiedKey, SignError> {
        let key = AuthorityKey::generate().map_err(crypto)?;
        let leaf = self.issue(&key, id, Some(sni), now)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_der().to_vec()));
        let signer = any_ecdsa_type(&der).map_err(|e| SignError::Crypto(e.to_string()))?;
        Ok(CertifiedKey::new(leaf.chain_der.into_iter().map(CertificateDer::from).collect(), signer))
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        dns: Option<&str>,
        now: SystemTime,
    ) -> Result<SignedLeaf, SignError> {
        let not_after = (now + self.leaf_lifetime).min(self.issuer_not_after);
        if not_after <= now {
            return Err(SignError::IssuerExpired(self.mesh.clone()));
        }
        let mut params = leaf_params(now - BACKDATE, not_after);
        params.subject_alt_names.push(SanType::URI(id.as_str().try_into().map_err(crypto)?));
        if let Some(dns) = dns {
            params.subject_alt_names.push(SanType::DnsName(dns.try_into().map_err(crypto)?));
        }
        let leaf = params.signed_by(key, &self.issuer).map_err(crypto)?;
        Ok(SignedLeaf { chain_der: vec![leaf.der().to_vec(), self.issuer_der.to_vec()], not_after: whole(not_after) })
    }
}

fn crypto(e: rcgen::Error) -> SignError {
    SignError::Crypto(e.to_string())
}

/// Certificates know whole seconds only.
pub(crate) fn whole(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(super::state::unix(time))
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

/// The request's public key, once everything about the request was checked.
fn verified_key(csr_der: &[u8], id: &SpiffeId) -> Result<SubjectPublicKeyInfo, SignError> {
    if csr_der.len() > MAX_CSR_BYTES {
        return Err(SignError::TooLarge(csr_der.len()));
    }
    let (rest, csr) =
        X509CertificationRequest::from_der(csr_der).map_err(|_| SignError::Malformed("it cannot be decoded"))?;
    if !rest.is_empty() {
        return Err(SignError::Malformed("bytes follow it"));
    }
    let spki = &csr.certification_request_info.subject_pki;
    let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    if spki.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
        return Err(SignError::KeyType);
    }
    csr.verify_signature().map_err(|_| SignError::Signature)?;
    check_names(&csr, id)?;
    SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| SignError::KeyType)
}

/// That the only subject alternative name is the workload's SPIFFE ID.
fn check_names(csr: &X509CertificationRequest<'_>, id: &SpiffeId) -> Result<(), SignError> {
    let names: Vec<&GeneralName<'_>> = csr
        .certification_request_info
        .iter_attributes()
        .filter_map(|a| match a.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
            _ => None,
        })
        .flatten()
        .filter_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => Some(&san.general_names),
            _ => None,
        })
        .flatten()
        .collect();
    if let [GeneralName::URI(uri)] = names.as_slice()
        && *uri == id.as_str()
    {
        return Ok(());
    }
    let found = match names.as_slice() {
        [] => "no name".to_owned(),
        // Debug escapes whatever the caller put there.
        [GeneralName::URI(uri)] => format!("{:?}", uri.chars().take(300).collect::<String>()),
        several => format!("{} names", several.len()),
    };
    Err(SignError::Names { found, expected: id.as_str().to_owned() })
}

#[cfg(test)]
mod tests;
