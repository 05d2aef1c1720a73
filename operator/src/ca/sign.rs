//! Turns certificate signing requests into leaves: X.509-SVIDs (SPIFFE, X509-SVID section 4 and 5) signed by the Mesh's issuing CA.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bowline_proxy::contract::{proto::TrustBundle, spiffe::SpiffeId};
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
    ledger::{Id, Ledger},
    material::{Material, MaterialError, dates},
    state::{CaState, StateError, at, unix},
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
    #[error("the issuing CA has expired: see the Mesh's status")]
    IssuerExpired,
    /// Nothing signs.
    #[error("there is no issuing CA that signs: see the Mesh's status")]
    NoIssuer,
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

/// Signs for one Mesh.
#[derive(Debug)]
pub struct MeshCa {
    /// Name of the Mesh.
    pub mesh: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Which authorities there are; everything here follows from it.
    pub ledger: Ledger,
    /// What workloads trust, and whose leaves they want.
    pub bundle: TrustBundle,
    signers: HashMap<Id, Signer>,
}

/// A leaf of the control plane's own.
#[derive(Debug)]
pub struct ServingLeaf {
    /// For TLS.
    pub key: CertifiedKey,
    /// Who signed it.
    pub issuer: Id,
    /// End of its validity.
    pub not_after: SystemTime,
}

impl MeshCa {
    /// Prepares signing with every issuer that is in use.
    ///
    /// # Errors
    /// When there is no active issuer, or something in the state is damaged.
    pub fn new(state: &CaState) -> Result<Self, StateError> {
        let ledger = &state.ledger;
        let active = ledger.active_issuer().ok_or(StateError::Count(0))?;
        let mut signers = HashMap::new();
        for issuer in &ledger.issuers {
            let fault = |fault| StateError::Material { id: issuer.id.chars().take(16).collect(), fault };
            let root = ledger.roots.iter().find(|r| Some(&r.id) == issuer.root.as_ref());
            let until = root.map_or(issuer.not_after, |r| r.not_after);
            signers.insert(issuer.id.clone(), Signer::new(state.material(&issuer.id)?, until).map_err(fault)?);
        }
        let roots =
            ledger.trusted_roots().map(|r| Ok(state.der(&r.id)?.to_vec())).collect::<Result<_, StateError>>()?;
        let bundle = TrustBundle {
            trust_domain: state.trust_domain.clone(),
            sequence: ledger.bundle_sequence,
            roots_der: roots,
            issuers_sha256: vec![digest(&active.id)],
            renew_within_seconds: ledger.renew_within,
            revoked_sha256: ledger.revoked.iter().map(|r| digest(&r.id)).collect(),
        };
        Ok(Self {
            mesh: state.mesh.clone(),
            trust_domain: state.trust_domain.clone(),
            ledger: ledger.clone(),
            bundle,
            signers,
        })
    }

    /// Checks a request (PKCS #10, DER) and signs a leaf for `id`, whom the caller has authenticated. The request's only subject
    /// alternative name must be `id`; nothing else in it is honoured.
    ///
    /// # Errors
    /// Says what is wrong with the request; see [`SignError`].
    pub fn sign_leaf(&self, csr_der: &[u8], id: &SpiffeId, now: SystemTime) -> Result<SignedLeaf, SignError> {
        let key = verified_key(csr_der, id)?;
        let signer = self.ledger.active_issuer().and_then(|i| self.signers.get(&i.id)).ok_or(SignError::NoIssuer)?;
        signer.sign(&key, id, None, self.leaf_lifetime(), now)
    }

    /// Life of leaves, unless their issuing CA ends earlier.
    #[must_use]
    pub fn leaf_lifetime(&self) -> Duration {
        Duration::from_secs(self.ledger.leaf_seconds)
    }

    /// Who signs the control plane's own leaf at `now`.
    #[must_use]
    pub fn serving_issuer(&self, now: SystemTime) -> Option<&Id> {
        self.ledger.serving_issuer(unix(now)).map(|i| &i.id)
    }

    /// Makes a key and a leaf for the control server of this Mesh: SPIFFE ID and the DNS name `sni`.
    ///
    /// # Errors
    /// When the issuing CA has expired or `sni` is no DNS name.
    pub fn issue_serving(&self, sni: &str, id: &SpiffeId, now: SystemTime) -> Result<ServingLeaf, SignError> {
        let issuer = self.serving_issuer(now).ok_or(SignError::NoIssuer)?;
        let signer = self.signers.get(issuer).ok_or(SignError::NoIssuer)?;
        let key = AuthorityKey::generate().map_err(crypto)?;
        let leaf = signer.sign(&key, id, Some(sni), self.leaf_lifetime(), now)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_der().to_vec()));
        let signing = any_ecdsa_type(&der).map_err(|e| SignError::Crypto(e.to_string()))?;
        let chain = leaf.chain_der.into_iter().map(CertificateDer::from).collect();
        Ok(ServingLeaf { key: CertifiedKey::new(chain, signing), issuer: issuer.clone(), not_after: leaf.not_after })
    }
}

/// The bytes of a fingerprint.
#[must_use]
pub fn digest(id: &str) -> Vec<u8> {
    let pairs = id.as_bytes().chunks(2);
    pairs.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
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
