//! An HTTP probe: one GET, redirects within the host followed, certificates not verified.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response,
    header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{
    connect::{self, connect},
    failure::ProbeFailure,
};

/// Redirects followed at most.
const MAX_REDIRECTS: usize = 10;
/// Bytes of a body that are read, so that the application does not see a broken pipe for a short answer.
const MAX_BODY_BYTES: usize = 10 << 10;

/// Where a probe goes: scheme, host, port and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProbeUrl {
    pub(super) https: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query.
    pub(super) path: String,
}

/// What follows from a `Location`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    Follow(ProbeUrl),
    /// To another host: the kubelet calls that a success and goes no further.
    Elsewhere,
    Invalid,
}

/// Carries the probe out; gives the final status.
pub(super) async fn get(mut target: ProbeUrl, extra: &[(String, String)]) -> Result<u16, ProbeFailure> {
    let headers = headers(extra)?;
    for _ in 0..=MAX_REDIRECTS {
        let response = once(&target, headers.clone()).await?;
        let status = response.status();
        let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        // Whatever becomes of the body, the status stands.
        let _ = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await.is_ok();
        let Some(location) = location.filter(|_| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)) else {
            return Ok(status.as_u16());
        };
        target = match follow(&target, &location) {
            Redirect::Follow(next) => next,
            Redirect::Elsewhere => return Ok(status.as_u16()),
            Redirect::Invalid => {
                return Err(ProbeFailure::new(format!("redirected to {location:?}, which is no address")));
            }
        };
    }
    Err(ProbeFailure::new(format!("stopped after {MAX_REDIRECTS} redirects")))
}

/// Where a `Location` leads (RFC 3986, section 5.2, as far as servers use it).
pub(super) fn follow(from: &ProbeUrl, location: &str) -> Redirect {
    let Ok(uri) = location.parse::<http::Uri>() else { return Redirect::Invalid };
    let path = match uri.path_and_query().map(|p| p.as_str()).filter(|p| !p.is_empty()) {
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(query) if query.starts_with('?') => format!("/{query}"),
        Some(_) => return Redirect::Invalid,
        None => "/".into(),
    };
    let Some(host) = uri.host() else {
        return Redirect::Follow(ProbeUrl { path, ..from.clone() });
    };
    let https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Redirect::Invalid,
    };
    if !host.eq_ignore_ascii_case(&bracketed(&from.host)) && !host.eq_ignore_ascii_case(&from.host) {
        return Redirect::Elsewhere;
    }
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    Redirect::Follow(ProbeUrl { https, host: from.host.clone(), port, path })
}

fn headers(extra: &[(String, String)]) -> Result<HeaderMap, ProbeFailure> {
    let mut map = HeaderMap::new();
    for (name, value) in extra {
        let parsed = (name.parse::<HeaderName>(), HeaderValue::from_str(value));
        let (Ok(name), Ok(value)) = parsed else {
            return Err(ProbeFailure::new(format!("the probe's header {name:?} is invalid")));
        };
        map.append(name, value);
    }
    if !map.contains_key(USER_AGENT) {
        map.insert(USER_AGENT, HeaderValue::from_static(connect::USER_AGENT));
    }
    if !map.contains_key(ACCEPT) {
        map.insert(ACCEPT, HeaderValue::from_static("*/*"));
    }
    map.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(map)
}

async fn once(target: &ProbeUrl, mut headers: HeaderMap) -> Result<Response<Incoming>, ProbeFailure> {
    let scheme = if target.https { "https" } else { "http" };
    let url = format!("{scheme}://{}:{}{}", bracketed(&target.host), target.port, target.path);
    let failed = |e: &dyn std::fmt::Display| ProbeFailure::new(format!("Get {url:?}: {e}"));
    if !headers.contains_key(HOST) {
        let host = format!("{}:{}", bracketed(&target.host), target.port);
        headers.insert(HOST, HeaderValue::from_str(&host).map_err(|e| failed(&e))?);
    }
    let path = if target.path.starts_with('/') { target.path.clone() } else { format!("/{}", target.path) };
    let mut request = Request::get(path).body(Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
    *request.headers_mut() = headers;
    let tcp = connect(&target.host, target.port).await.map_err(|e| failed(&e))?;
    if !target.https {
        return exchange(tcp, request).await.map_err(|e| failed(&e));
    }
    let name = ServerName::try_from(target.host.clone()).map_err(|e| failed(&e))?;
    let tls = TlsConnector::from(Arc::new(trusting().map_err(|e| failed(&e))?));
    let stream = tls.connect(name, tcp).await.map_err(|e| failed(&e))?;
    exchange(stream, request).await.map_err(|e| failed(&e))
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the exchange: the sender goes, and the body with it.
    tokio::spawn(async move { connection.await.is_ok() });
    sender.send_request(request).await
}

/// An IPv6 address as it stands in a URL.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn trusting() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth())
}

/// Takes any certificate, as the kubelet does for probes: they ask whether the application lives, not who it is.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
