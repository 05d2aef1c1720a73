//! A leaf that was checked: it is for our key and our SPIFFE ID, valid now, and verifies against the bundle that came with it.

use std::{fmt, sync::Arc, time::Duration};

use rustls::sign::SigningKey;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use super::key::{Key, KeyError};
use crate::contract::{resource::Bundle, spiffe::SpiffeId};

/// Most certificates in a chain.
pub const MAX_CHAIN: usize = 8;

/// What the identity service sent is no leaf of ours.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// No certificate, or far too many.
    #[error("the chain has {0} certificates: 1 to {MAX_CHAIN} are expected")]
    Chain(usize),
    /// A certificate is malformed.
    #[error("certificate {index} of the chain is malformed: {reason}")]
    Malformed {
        /// Position in the chain.
        index: usize,
        /// Why.
        reason: String,
    },
    /// Signed for another key.
    #[error("the leaf is for another key than the one that was sent: the answer is not for this request")]
    Key,
    /// Names somebody else.
    #[error("the leaf is for {found:?}, expected was exactly {expected}")]
    Identity {
        /// URIs in it.
        found: Vec<String>,
        /// Ours.
        expected: SpiffeId,
    },
    /// A CA.
    #[error("the leaf is a CA certificate; the issuer is misconfigured")]
    Authority,
    /// Not valid now.
    #[error(
        "the leaf is valid from {not_before} to {not_after}, and it is {now} here (Unix seconds): check this node's clock"
    )]
    Validity {
        /// First second.
        not_before: i64,
        /// Last second.
        not_after: i64,
        /// Our clock.
        now: i64,
    },
    /// Not signed by what we trust.
    #[error("the leaf does not verify against trust bundle {sequence}: {reason}")]
    Untrusted {
        /// Sequence of the bundle.
        sequence: u64,
        /// Why.
        reason: String,
    },
    /// The key cannot be used.
    #[error(transparent)]
    Unusable(#[from] KeyError),
}

/// A leaf with its chain and its key.
pub struct Leaf {
    /// Whose it is.
    pub id: SpiffeId,
    /// Leaf first, root not in it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: Arc<dyn SigningKey>,
    /// First second of validity, Unix time.
    pub not_before: i64,
    /// Last second of validity, Unix time.
    pub not_after: i64,
    /// SHA-256 over the DER of the certificate that signed it.
    pub issuer_sha256: [u8; 32],
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("id", &self.id).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Leaf {
    /// Checks what the identity service sent for `key` and `id`; `now` in Unix seconds.
    ///
    /// # Errors
    /// Says what is wrong with it; see [`LeafError`].
    pub fn check(
        id: &SpiffeId,
        key: Key,
        chain: Vec<CertificateDer<'static>>,
        bundle: &Bundle,
        now: i64,
    ) -> Result<Self, LeafError> {
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            return Err(LeafError::Chain(chain.len()));
        }
        let leaf = parse(&chain, 0)?;
        if leaf.public_key().raw != key.public_der() {
            return Err(LeafError::Key);
        }
        if leaf.is_ca() {
            return Err(LeafError::Authority);
        }
        let found = uris(&leaf);
        if found != [id.as_str()] {
            return Err(LeafError::Identity { found, expected: id.clone() });
        }
        let (not_before, not_after) = (leaf.validity.not_before.timestamp(), leaf.validity.not_after.timestamp());
        if now < not_before || now > not_after {
            return Err(LeafError::Validity { not_before, not_after, now });
        }
        verify(&chain, bundle, now).map_err(|reason| LeafError::Untrusted { sequence: bundle.sequence, reason })?;
        let issuer_sha256 = issuer(&chain, bundle)?;
        Ok(Self { id: id.clone(), key: key.into_signer()?, chain, not_before, not_after, issuer_sha256 })
    }

    /// Whether the leaf verifies against `bundle` at `now` (Unix seconds): a root that was dropped makes it useless.
    #[must_use]
    pub fn verifies(&self, bundle: &Bundle, now: i64) -> bool {
        verify(&self.chain, bundle, now).is_ok()
    }
}

/// URIs among the subject alternative names.
pub(crate) fn uris(cert: &X509Certificate<'_>) -> Vec<String> {
    let names = cert.extensions().iter().filter_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(san) => Some(&san.general_names),
        _ => None,
    });
    names.flatten().filter_map(|n| if let GeneralName::URI(u) = n { Some((*u).to_owned()) } else { None }).collect()
}

fn parse<'a>(chain: &'a [CertificateDer<'static>], index: usize) -> Result<X509Certificate<'a>, LeafError> {
    let malformed = |reason: String| LeafError::Malformed { index, reason };
    let der = chain.get(index).ok_or_else(|| malformed("it is missing".into()))?;
    X509Certificate::from_der(der).map(|(_, c)| c).map_err(|e| malformed(e.to_string()))
}

/// SHA-256 of the certificate that signed the leaf: the next in the chain, or the root that bears its issuer's name.
fn issuer(chain: &[CertificateDer<'static>], bundle: &Bundle) -> Result<[u8; 32], LeafError> {
    if let Some(next) = chain.get(1) {
        return Ok(Sha256::digest(next).into());
    }
    let leaf = parse(chain, 0)?;
    let signer = bundle.roots.iter().find(|root| {
        // The chain was verified before, so a name that fits is the signer's.
        X509Certificate::from_der(root).is_ok_and(|(_, r)| r.subject() == leaf.issuer())
    });
    signer.map(|root| Sha256::digest(root).into()).ok_or_else(|| LeafError::Untrusted {
        sequence: bundle.sequence,
        reason: "no root of it signed the leaf".into(),
    })
}

fn verify(chain: &[CertificateDer<'static>], bundle: &Bundle, now: i64) -> Result<(), String> {
    let roots: Vec<CertificateDer<'_>> = bundle.roots.iter().map(|r| CertificateDer::from(r.as_slice())).collect();
    let anchors: Vec<_> = roots.iter().filter_map(|r| webpki::anchor_from_trusted_cert(r).ok()).collect();
    let Some((leaf, intermediates)) = chain.split_first() else { return Err("the chain is empty".into()) };
    let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|e| e.to_string())?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
    let usage = webpki::KeyUsage::client_auth();
    leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, intermediates, now, usage, None, None)
        .map(drop)
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
