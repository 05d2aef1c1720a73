//! TLS configurations of the data plane, made of a leaf and a trust bundle.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};
use rustls_pki_types::CertificateDer;

use crate::{bootstrap::tunnel, control::apply::Bundle};

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

/// Builds both.
///
/// # Errors
/// When the TLS library takes one of them not.
pub fn build(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    bundle: &Arc<Bundle>,
) -> Result<Configs, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bundle.roots.iter().map(|r| CertificateDer::from(r.as_slice())));
    let roots = Arc::new(roots);
    let one = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(Arc::clone(&roots))
        .with_client_cert_resolver(Arc::clone(&one) as _);
    client.alpn_protocols = vec![tunnel::ALPN.to_vec()];
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut server = match WebPkiClientVerifier::builder_with_provider(roots, provider).build() {
        Ok(verifier) => builder.with_client_cert_verifier(verifier).with_cert_resolver(one),
        Err(_) => builder
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new())),
    };
    server.alpn_protocols = vec![tunnel::ALPN.to_vec()];
    Ok(Configs { server: Arc::new(server), client: Arc::new(client) })
}
