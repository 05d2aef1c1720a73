//! Connects to the control plane: `mesh.json`, trust bundle and leaf come in, a gRPC channel goes out. TLS to whichever replica answers,
//! verified against the trust bundle and by its SPIFFE ID.

use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::{
    contract::{bootstrap::MeshInfo, resource::Bundle},
    identity::leaf::{Leaf, uris},
};

/// How long name resolution, connection and handshake may take together.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the pod's own DNS has before the addresses in mesh.json are tried beside it: a resolver that is not there is silent.
const DNS_DEADLINE: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_DEADLINE: Duration = Duration::from_secs(10);

/// The control plane could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The bundle makes no verifier.
    #[error("trust bundle {sequence} has no usable root, so no control plane can be trusted: {reason}")]
    Roots {
        /// Of the bundle.
        sequence: u64,
        /// Why.
        reason: String,
    },
    /// `mesh.json` names it wrongly.
    #[error("control plane is misnamed in mesh.json: {what} {value:?} is invalid")]
    Name {
        /// Which field.
        what: &'static str,
        /// What it holds.
        value: String,
    },
    /// TLS cannot be configured.
    #[error("TLS to the control plane cannot be configured: {0}")]
    Tls(#[from] rustls::Error),
    /// Nobody answers, or somebody else.
    #[error("no connection to the control plane at {address}: {reason}")]
    Connect {
        /// Where.
        address: String,
        /// Why, with every cause.
        reason: String,
    },
}

/// Connects, and gives the chain that the server presented; `leaf` proves who calls, where somebody wants to know.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(
    mesh: &MeshInfo,
    bundle: &Bundle,
    leaf: Option<&Leaf>,
) -> Result<(Channel, Vec<CertificateDer<'static>>), ConnectError> {
    let name = ServerName::try_from(mesh.control_sni.clone())
        .map_err(|_| ConnectError::Name { what: "controlSni", value: mesh.control_sni.clone() })?;
    let endpoint = Endpoint::from_shared(format!("http://{}", mesh.control_sni))
        .map_err(|_| ConnectError::Name { what: "controlSni", value: mesh.control_sni.clone() })?
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_DEADLINE)
        .keep_alive_while_idle(true);
    let tls = TlsConnector::from(Arc::new(config(mesh, bundle, leaf)?));
    let (address, ips) = (mesh.control_address.clone(), mesh.control_ips.clone());
    let server = Arc::new(Mutex::new(Vec::new()));
    let presented = Arc::clone(&server);
    let connector = tower::service_fn(move |_: http::Uri| {
        let (address, ips) = (address.clone(), ips.clone());
        let (name, tls, presented) = (name.clone(), tls.clone(), Arc::clone(&presented));
        async move {
            let whole = async {
                let tcp = connect_tcp(&address, &ips).await?;
                tcp.set_nodelay(true)?;
                tls.connect(name, tcp).await
            };
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_DEADLINE:?}"));
            let stream = tokio::time::timeout(CONNECT_DEADLINE, whole).await.map_err(late)??;
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|c| c.clone().into_owned()).collect();
            *presented.lock().unwrap_or_else(PoisonError::into_inner) = chain;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|e| ConnectError::Connect { address: mesh.control_address.clone(), reason: causes(&e) })?;
    let chain = std::mem::take(&mut *server.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((channel, chain))
}

/// Connects by name, and where the name does not resolve or answer, to the addresses that the operator published: who answers must prove
/// the same either way.
async fn connect_tcp(address: &str, ips: &[IpAddr]) -> io::Result<TcpStream> {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let known: Vec<SocketAddr> = port.iter().flat_map(|port| ips.iter().map(|ip| (*ip, *port).into())).collect();
    let mut named = pin!(TcpStream::connect(address));
    if known.is_empty() {
        return named.await;
    }
    let by_name = match tokio::time::timeout(DNS_DEADLINE, named.as_mut()).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error,
        Err(_) => {
            let mut by_ip = pin!(TcpStream::connect(&*known));
            tokio::select! {
                Ok(stream) = named.as_mut() => return Ok(stream),
                Ok(stream) = by_ip.as_mut() => return Ok(stream),
                else => return Err(io::Error::other(format!("neither by name nor at {known:?}"))),
            }
        }
    };
    let by_ip = TcpStream::connect(&*known).await;
    by_ip.map_err(|error| io::Error::new(error.kind(), format!("by name: {by_name}; at {known:?}: {error}")))
}

fn config(mesh: &MeshInfo, bundle: &Bundle, leaf: Option<&Leaf>) -> Result<ClientConfig, ConnectError> {
    let no_root = |reason: String| ConnectError::Roots { sequence: bundle.sequence, reason };
    let mut roots = RootCertStore::empty();
    for der in &bundle.roots {
        roots.add(CertificateDer::from(der.as_slice())).map_err(|e| no_root(e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|e| no_root(e.to_string()))?;
    let verifier = Arc::new(ControlVerifier { inner, expected: mesh.control_identity.clone() });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match leaf {
        Some(leaf) => {
            let key = CertifiedKey::new(leaf.chain.clone(), Arc::clone(&leaf.key));
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Chain and name as usual, and the SPIFFE ID on top: nobody else of the mesh may play the control plane.
#[derive(Debug)]
struct ControlVerifier {
    inner: Arc<WebPkiServerVerifier>,
    expected: String,
}

#[derive(Debug, thiserror::Error)]
#[error("the server proves {found:?}, expected was exactly {expected:?}: it is not the control plane of this mesh")]
struct WrongServer {
    found: Vec<String>,
    expected: String,
}

impl ServerCertVerifier for ControlVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(leaf, intermediates, name, ocsp, now)?;
        let found = X509Certificate::from_der(leaf).map(|(_, c)| uris(&c)).unwrap_or_default();
        if found == [self.expected.as_str()] {
            return Ok(verified);
        }
        let wrong = WrongServer { found, expected: self.expected.clone() };
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))))
    }

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
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// An error with all that caused it, on one line.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
