//! Asks another replica what it knows, over mutual TLS.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bowline_proxy::contract::proto::{ObserveRequest, ObserveResponse, replica_client::ReplicaClient as GrpcClient};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, sign::SingleCertAndKey};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Status, transport::Endpoint};

use crate::{
    ca::Authorities,
    runtime::config::{Config, control_identity},
    serving::{peer::identity, tls::MeshTls},
};

/// How long a replica may take to answer, connection included.
pub const DEADLINE: Duration = Duration::from_secs(3);
/// Largest answer, in bytes: what 10,000 proxies say.
const MAX_BYTES: usize = 16 << 20;

/// Why a replica was not heard.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// This replica has nothing to prove itself with yet.
    #[error("this replica has no certificate for Mesh {0} yet")]
    NoLeaf(String),
    /// TLS cannot be configured.
    #[error("TLS cannot be configured: {0}")]
    Tls(#[from] rustls::Error),
    /// A name that is none.
    #[error("Mesh {0} makes no server name")]
    Name(String),
    /// Nobody answers there, or somebody else.
    #[error("no connection: {0}")]
    Connect(#[from] tonic::transport::Error),
    /// It refused.
    #[error("it answered {0}")]
    Refused(#[from] Status),
    /// It took longer than [`DEADLINE`].
    #[error("no answer within {DEADLINE:?}")]
    Late,
}

/// Asks other replicas; proves itself to them, and has them prove themselves, as the operator.
#[derive(Clone)]
pub struct ReplicaClient {
    authorities: Authorities,
    tls: MeshTls,
    namespace: String,
    port: u16,
}

impl ReplicaClient {
    /// `namespace` is the operator's, `port` that of every replica's identity and control server.
    #[must_use]
    pub fn new(authorities: Authorities, tls: MeshTls, namespace: String, port: u16) -> Self {
        Self { authorities, tls, namespace, port }
    }

    /// Asks the replica at an address.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, mesh: &str, ip: IpAddr) -> Result<ObserveResponse, AskError> {
        tokio::time::timeout(DEADLINE, self.exchange(mesh, ip)).await.map_err(|_| AskError::Late)?
    }

    async fn exchange(&self, mesh: &str, ip: IpAddr) -> Result<ObserveResponse, AskError> {
        let ca = self.authorities.mesh(mesh).ok_or_else(|| AskError::NoLeaf(mesh.to_owned()))?;
        let leaf = self.tls.leaf(mesh).ok_or_else(|| AskError::NoLeaf(mesh.to_owned()))?;
        let mut roots = RootCertStore::empty();
        for der in &ca.bundle.roots_der {
            roots.add(CertificateDer::from(der.as_slice()))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(rustls::sign::CertifiedKey::clone(&leaf))));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        let sni = Config::control_sni(mesh);
        let name = ServerName::try_from(sni.clone()).map_err(|_| AskError::Name(mesh.to_owned()))?;
        let expected = control_identity(&self.namespace, &ca.trust_domain);
        let (tls, address) = (TlsConnector::from(Arc::new(config)), (ip, self.port));
        let connector = tower::service_fn(move |_: http::Uri| {
            let (tls, name, expected) = (tls.clone(), name.clone(), expected.clone());
            async move {
                let stream = tls.connect(name, TcpStream::connect(address).await?).await?;
                let chain = stream.get_ref().1.peer_certificates();
                let found = chain.and_then(|c| c.first()).and_then(identity).map(|id| id.to_string());
                if found.as_ref() == Some(&expected) {
                    Ok(TokioIo::new(stream))
                } else {
                    Err(std::io::Error::other(format!("the server proves {found:?}, expected was {expected}")))
                }
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{sni}")).map_err(AskError::Connect)?;
        let channel = endpoint.connect_with_connector(connector).await?;
        let mut client = GrpcClient::new(channel).max_decoding_message_size(MAX_BYTES);
        Ok(client.observe(ObserveRequest {}).await?.into_inner())
    }
}
