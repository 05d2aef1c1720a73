//! Evidence that this replica's webhook server serves a certificate which the configuration is about to trust.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use rustls_pki_types::CertificateDer;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// Why nobody is to be sent to this server.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection, or no trustworthy one.
    #[error("{0}")]
    Connection(#[from] std::io::Error),
    /// The CAs cannot be used.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The name cannot be used.
    #[error("{0:?} is no DNS name")]
    Name(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

/// One handshake with the server on this port, as the API server would have it, and no longer than `within`.
///
/// # Errors
/// See [`ProbeError`].
pub async fn probe(
    port: u16,
    host: &str,
    authorities: &[CertificateDer<'static>],
    within: Duration,
) -> Result<(), ProbeError> {
    let mut roots = RootCertStore::empty();
    for ca in authorities {
        roots.add(ca.clone())?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| ProbeError::Name(host.into()))?;
    let handshake = async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    timeout(within, handshake).await.map_err(|_| ProbeError::Silent(within))??;
    Ok(())
}
