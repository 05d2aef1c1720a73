//! TLS from outside the mesh to a proxy's mesh port, with whatever credentials a test makes up.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bowline_proxy::contract::{bootstrap::ports, tunnel};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use crate::context::Context;

/// What a handshake or an answer may take, on a machine that stands still meanwhile.
const ANSWER: Duration = Duration::from_secs(30);

/// A chain and its key.
#[derive(Debug)]
pub struct Credentials {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's.
    pub key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// A certificate that nobody vouches for.
    ///
    /// # Errors
    /// When the URI cannot be encoded.
    pub fn self_signed(uri: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        let chain = vec![params.self_signed(&key)?.der().clone()];
        Ok(Self { chain, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) })
    }
}

/// A TLS 1.3 client that verifies the server's chain, but not its name: identities here are URIs.
///
/// # Errors
/// When roots or key are unusable.
pub fn client(
    roots: &[CertificateDer<'static>],
    credentials: Option<Credentials>,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider)).build()?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ChainOnly(inner)));
    let mut config = match credentials {
        Some(Credentials { chain, key }) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

/// Verifies everything but the name.
#[derive(Debug)]
struct ChainOnly(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is the last thing that is checked, after chain, validity and usage.
        match self.0.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// A connection to the mesh port of a proxy, from outside the mesh, for HTTP to port 8080 of the application.
pub struct Held {
    requests: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<()>,
}

impl Held {
    /// Shakes hands with the proxy of the pod at `ip` and opens HTTP/2.
    ///
    /// # Errors
    /// When the server's chain does not end at one of `roots`. In TLS 1.3 a refused client learns so only with its first request.
    pub async fn open(
        cx: &Context,
        ip: IpAddr,
        roots: &[CertificateDer<'static>],
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        let config = client(roots, credentials, tunnel::ALPN)?;
        let tcp = cx.dial(ip, ports::MESH).await?;
        let name = ServerName::try_from(tunnel::sni(8080, tunnel::App::Http1))?;
        let open = async {
            let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.context("handshake")?;
            let executor = hyper_util::rt::TokioExecutor::new();
            hyper::client::conn::http2::handshake(executor, TokioIo::new(tls)).await.context("HTTP/2")
        };
        let (requests, connection) = tokio::time::timeout(ANSWER, open).await.context("no answer")??;
        // How it ends does not matter, only when.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { requests, connection })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When it is not answered within half a minute; any status is an answer.
    pub async fn get(&mut self, path: &str) -> Result<http::StatusCode> {
        let request = http::Request::get(format!("http://server{path}")).body(Empty::new())?;
        let answer = self.requests.send_request(request);
        let answer = tokio::time::timeout(ANSWER, answer).await.context("no answer")?;
        Ok(answer.context("request")?.status())
    }

    /// Waits until the other side has closed it.
    ///
    /// # Errors
    /// After `limit`.
    pub async fn closed(mut self, limit: Duration) -> Result<()> {
        let ended = tokio::time::timeout(limit, &mut self.connection).await;
        ended.with_context(|| format!("still open after {} s", limit.as_secs()))?.context("the connection's task")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Tries to be let in by the proxy of the pod at `ip`: shakes hands, opens HTTP/2, and sends a request for `path` to port 8080.
///
/// # Errors
/// When the proxy refuses; in TLS 1.3 a refused client learns so only after its own part of the handshake.
pub async fn knock(
    cx: &Context,
    ip: IpAddr,
    roots: &[CertificateDer<'static>],
    credentials: Option<Credentials>,
    path: &str,
) -> Result<http::StatusCode> {
    Held::open(cx, ip, roots, credentials).await?.get(path).await
}

/// Sends plain HTTP from node 1 and returns what comes back, until the other side closes or two seconds pass in silence.
///
/// # Errors
/// When there is no connection at all.
pub async fn plain_http(cx: &Context, ip: IpAddr, port: u16) -> Result<String> {
    let mut stream = cx.dial(ip, port).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\n\r\n");
    let mut answer = vec![];
    // A reset is an answer too: an empty one.
    if stream.write_all(request.as_bytes()).await.is_ok() {
        let _ = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
