//! TLS of the data plane: configurations made of a leaf and a trust bundle, and who the peer is.
//!
//! TLS 1.3 only, no resumption, both sides present a certificate. A chain is verified against the bundle's roots and nothing
//! else; names in SNI and certificate are not compared, the SPIFFE ID is what counts, and whoever connects compares it with
//! the one that is expected there before the first byte of an application.

use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::{
    contract::{resource::Bundle, spiffe::SpiffeId, tunnel},
    identity::leaf::uris,
};

/// For both directions.
#[derive(Debug, Clone)]
pub struct Configs {
    /// Inbound.
    pub server: Arc<ServerConfig>,
    /// Outbound.
    pub client: Arc<ClientConfig>,
}

/// A leaf and a bundle make no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// See [`rustls::Error`].
    #[error("leaf and trust bundle make no TLS configuration: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The peer's certificate proves no workload of the trust domain.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// None was presented.
    #[error("the peer presented no certificate: it is no proxy of this mesh")]
    Missing,
    /// Not exactly one URI.
    #[error("the peer's certificate names {0} URIs, an SVID names exactly one")]
    Uris(usize),
    /// Malformed certificate or SPIFFE ID.
    #[error("the peer's certificate is no SVID of a workload: {0}")]
    Malformed(String),
    /// Of another mesh.
    #[error("the peer is {found}, which is not of trust domain {expected:?}")]
    Domain {
        /// The peer's identity.
        found: SpiffeId,
        /// Ours.
        expected: String,
    },
}

/// Builds both.
///
/// # Errors
/// When the TLS library takes one of them not.
pub fn build(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    bundle: &Arc<Bundle>,
) -> Result<Configs, TlsError> {
    let provider = Arc::new(provider());
    let verifier = Arc::new(Verifier { anchors: anchors(&bundle.roots), provider: Arc::clone(&provider) });
    let one = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));

    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
        .with_client_cert_resolver(Arc::clone(&one) as _);
    client.alpn_protocols = vec![tunnel::ALPN.to_vec()];
    client.resumption = rustls::client::Resumption::disabled();
    client.enable_early_data = false;

    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(one);
    server.alpn_protocols = vec![tunnel::ALPN.to_vec()];
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Configs { server: Arc::new(server), client: Arc::new(client) })
}

/// aws-lc-rs with the key exchange groups in our order: hybrid post-quantum first.
fn provider() -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
    CryptoProvider { kx_groups: vec![X25519MLKEM768, X25519, SECP256R1], ..aws_lc_rs::default_provider() }
}

/// Who the peer of a finished handshake is: the single URI SAN of its leaf.
///
/// # Errors
/// When it presented no SVID of a workload in `trust_domain`.
pub fn peer_identity(chain: Option<&[CertificateDer<'_>]>, trust_domain: &str) -> Result<SpiffeId, PeerError> {
    let leaf = chain.and_then(<[_]>::first).ok_or(PeerError::Missing)?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|e| PeerError::Malformed(e.to_string()))?;
    let [uri] = <[String; 1]>::try_from(uris(&leaf)).map_err(|all| PeerError::Uris(all.len()))?;
    let id: SpiffeId = uri.parse().map_err(|e| PeerError::Malformed(format!("{e}")))?;
    if id.trust_domain() == trust_domain {
        Ok(id)
    } else {
        Err(PeerError::Domain { found: id, expected: trust_domain.into() })
    }
}

/// Whether a chain that was verified at `at` would verify against `roots`: `false` when its own was dropped.
#[must_use]
pub fn still_trusted(chain: &[CertificateDer<'_>], roots: &[Vec<u8>], at: UnixTime) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else { return false };
    // Both directions use the same kind of leaf, so either usage will do.
    verify(leaf, intermediates, &anchors(roots), at, webpki::KeyUsage::client_auth()).is_ok()
}

/// Roots that cannot be parsed are left out: they can verify nobody.
fn anchors(roots: &[Vec<u8>]) -> Vec<TrustAnchor<'static>> {
    roots
        .iter()
        .filter_map(|root| {
            let root = CertificateDer::from(root.as_slice());
            webpki::anchor_from_trusted_cert(&root).map(|a| a.to_owned()).ok()
        })
        .collect()
}

fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    now: UnixTime,
    usage: webpki::KeyUsage,
) -> Result<(), rustls::Error> {
    use rustls::CertificateError as E;
    let refuse = |e: webpki::Error| {
        rustls::Error::InvalidCertificate(match e {
            webpki::Error::CertExpired { .. } => E::Expired,
            webpki::Error::CertNotValidYet { .. } => E::NotValidYet,
            webpki::Error::UnknownIssuer => E::UnknownIssuer,
            webpki::Error::BadDer => E::BadEncoding,
            _ => E::ApplicationVerificationFailure,
        })
    };
    let leaf = webpki::EndEntityCert::try_from(leaf).map_err(refuse)?;
    leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, anchors, intermediates, now, usage, None, None)
        .map(drop)
        .map_err(refuse)
}

/// Verifies chains of servers and clients alike. Without anchors nobody passes.
#[derive(Debug)]
struct Verifier {
    anchors: Vec<TrustAnchor<'static>>,
    provider: Arc<CryptoProvider>,
}

/// What both traits ask for in the same words: who signed the handshake. A trait cannot be shared between them.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify(leaf, intermediates, &self.anchors, now, webpki::KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        verify(leaf, intermediates, &self.anchors, now, webpki::KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

/// Longest time for a handshake.
pub(crate) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
