//! An issuing CA that somebody else signed: read from a Secret of type `kubernetes.io/tls` and checked before it is staged.

use std::time::{Duration, SystemTime};

use bowline_proxy::contract::spiffe::SpiffeId;
use k8s_openapi::api::core::v1::Secret;
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use zeroize::Zeroizing;

use super::{
    key::AuthorityKey,
    material::{Material, MaterialError, dates, parse},
    signer::Signer,
};
use crate::ca::{
    fingerprint::fingerprint,
    rotation::policy::AuthoritySource,
    unix_time::{at, unix},
};

/// Key of the issuing CA and its intermediates in the Secret.
pub const CERTIFICATE: &str = "tls.crt";
/// Key of its private key.
pub const KEY: &str = "tls.key";
/// Key of the root.
pub const ROOT: &str = "ca.crt";

/// Why a Secret holds no usable issuing CA. No message repeats what it holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExternalError {
    /// There is no such Secret yet.
    #[error("there is no such Secret (yet)")]
    Missing,
    /// It lacks a key.
    #[error("it has no entry {0}, or not in UTF-8")]
    Entry(&'static str),
    /// What it holds is damaged.
    #[error("{entry}: {fault}")]
    Material {
        /// Key in the Secret.
        entry: &'static str,
        /// What is wrong.
        fault: MaterialError,
    },
    /// The certificate is no CA's.
    #[error("{0} holds no CA certificate (basicConstraints CA:TRUE, keyUsage keyCertSign)")]
    NoAuthority(&'static str),
    /// The root is not self-signed.
    #[error("ca.crt must begin with the self-signed root")]
    NoRoot,
    /// The chain does not end at the root.
    #[error(
        "a leaf below tls.crt does not verify against the root in ca.crt ({0}): put the intermediates between them into tls.crt, \
         and let their path lengths and name constraints allow leaves with URIs of the trust domain"
    )]
    Chain(String),
    /// Expired, or of the future.
    #[error("the issuing CA or its root has expired, or is not valid yet")]
    Validity,
}

/// What the source offers.
#[derive(Debug, Clone, PartialEq)]
pub struct ExternalAuthority {
    /// The root, without its key.
    pub root: Material,
    /// The issuing CA with intermediates and key.
    pub issuer: Material,
    ids: (String, String),
}

impl ExternalAuthority {
    /// Fingerprint of the root.
    #[must_use]
    pub fn root_id(&self) -> String {
        self.ids.0.clone()
    }

    /// Fingerprint of the issuing CA.
    #[must_use]
    pub fn issuer_id(&self) -> String {
        self.ids.1.clone()
    }

    /// For the decision.
    #[must_use]
    pub fn source(&self) -> AuthoritySource {
        AuthoritySource::External { root: self.root_id(), issuer: self.issuer_id() }
    }

    /// Reads and checks a Secret.
    ///
    /// # Errors
    /// Says which entry cannot be used, and why.
    pub fn read(secret: Option<&Secret>, trust_domain: &str, now: SystemTime) -> Result<Self, ExternalError> {
        let data = secret.ok_or(ExternalError::Missing)?.data.as_ref().ok_or(ExternalError::Entry(CERTIFICATE))?;
        let text = |entry: &'static str| {
            let bytes = data.get(entry).ok_or(ExternalError::Entry(entry))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| ExternalError::Entry(entry))
        };
        let bad = |entry: &'static str| move |fault| ExternalError::Material { entry, fault };
        let key = Zeroizing::new(text(KEY)?);
        let root_der =
            CertificateDer::from_pem_slice(text(ROOT)?.as_bytes()).map_err(|_| bad(ROOT)(MaterialError::Pem))?;
        let root = Material { certificate: pem(&root_der), key: None };
        let (from, until) = root.dates().map_err(bad(ROOT))?;
        let root_id = fingerprint(&root_der);
        root.check(&root_id, from, until).map_err(bad(ROOT))?;

        let given = Material { certificate: text(CERTIFICATE)?, key: None };
        // Some add the root to the chain; peers have it.
        let chain: Vec<_> = given.chain().map_err(bad(CERTIFICATE))?.into_iter().filter(|c| *c != root_der).collect();
        let issuer = Material { certificate: chain.iter().map(pem).collect(), key: Some(key) };
        let der = issuer.der().map_err(|_| bad(CERTIFICATE)(MaterialError::Chain))?;
        let (not_before, not_after) = issuer.dates().map_err(bad(CERTIFICATE))?;
        let issuer_id = fingerprint(&der);
        issuer.check(&issuer_id, not_before, not_after).map_err(|fault| match fault {
            MaterialError::Key | MaterialError::ForeignKey => bad(KEY)(fault),
            fault => bad(CERTIFICATE)(fault),
        })?;
        if unix(now) < not_before || now >= at(not_after.min(until)) {
            return Err(ExternalError::Validity);
        }
        judge(&root_der, &chain)?;
        prove(&root_der, &issuer, trust_domain, now)?;
        Ok(Self { root, issuer, ids: (root_id, issuer_id) })
    }
}

/// That root and issuing CA are authorities, and the root signed itself.
fn judge(root: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<(), ExternalError> {
    let bad = |entry: &'static str| move |fault| ExternalError::Material { entry, fault };
    let parsed = parse(root).map_err(bad(ROOT))?;
    if !is_authority(&parsed) {
        return Err(ExternalError::NoAuthority(ROOT));
    }
    if parsed.subject() != parsed.issuer() || parsed.verify_signature(None).is_err() {
        return Err(ExternalError::NoRoot);
    }
    let issuer = chain.first().ok_or(ExternalError::Entry(CERTIFICATE))?;
    if !is_authority(&parse(issuer).map_err(bad(CERTIFICATE))?) {
        return Err(ExternalError::NoAuthority(CERTIFICATE));
    }
    Ok(())
}

/// A leaf below the issuing CA must verify against the root: dates, path lengths, name constraints and signatures are as they must be.
fn prove(
    root: &CertificateDer<'_>,
    issuer: &Material,
    trust_domain: &str,
    now: SystemTime,
) -> Result<(), ExternalError> {
    let of_no_use = |why: String| ExternalError::Chain(why);
    let id = SpiffeId::new(trust_domain, "bowline", "trial").map_err(|e| of_no_use(e.to_string()))?;
    let (_, root_not_after) = dates(root).map_err(|fault| ExternalError::Material { entry: ROOT, fault })?;
    let signer =
        Signer::new(issuer, root_not_after).map_err(|fault| ExternalError::Material { entry: CERTIFICATE, fault })?;
    let key = AuthorityKey::generate().map_err(|e| of_no_use(e.to_string()))?;
    let life = Duration::from_secs(60);
    let leaf = signer.sign(&key, &id, None, life, now).map_err(|e| of_no_use(e.to_string()))?;
    let chain: Vec<_> = leaf.chain_der.iter().map(|c| CertificateDer::from(c.as_slice())).collect();
    let anchors = [webpki::anchor_from_trusted_cert(root).map_err(|e| of_no_use(e.to_string()))?];
    let at = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let (end, between) = chain.split_first().ok_or(ExternalError::Entry(CERTIFICATE))?;
    let end = webpki::EndEntityCert::try_from(end).map_err(|e| of_no_use(e.to_string()))?;
    let usage = webpki::KeyUsage::client_auth();
    end.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, between, at, usage, None, None)
        .map(drop)
        .map_err(|e| of_no_use(e.to_string()))
}

fn is_authority(certificate: &x509_parser::certificate::X509Certificate<'_>) -> bool {
    let signs = certificate.key_usage().ok().flatten().is_none_or(|u| u.value.key_cert_sign());
    certificate.is_ca() && signs
}

fn pem(der: &CertificateDer<'_>) -> String {
    pem::encode_config(
        &pem::Pem::new("CERTIFICATE", der.to_vec()),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

#[cfg(test)]
mod tests;
