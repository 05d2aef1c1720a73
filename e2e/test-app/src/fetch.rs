//! One HTTP request on a connection of its own.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::{
    pattern::pattern,
    response::headers,
    target::{Target, connect},
};

/// Most of a body that is printed, in bytes.
const SHOWN_BYTES: usize = 64 << 10;

/// The request.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct Args {
    /// `http://HOST[:PORT]/PATH`, or `https://` with `--ca`.
    url: String,
    /// Certificates that a TLS server's must come from, PEM.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// HTTP/2 with prior knowledge.
    #[arg(long)]
    h2: bool,
    /// Further headers, `NAME: VALUE`.
    #[arg(short = 'H', long = "header")]
    header: Vec<String>,
    /// Method; POST when there is a body, else GET.
    #[arg(short = 'X', long)]
    method: Option<String>,
    /// Bytes of a body to send.
    #[arg(long)]
    body: Option<u64>,
    /// A text to send as the body.
    #[arg(long, conflicts_with = "body")]
    text: Option<String>,
    /// Send the body without a length.
    #[arg(long)]
    chunked: bool,
    /// Read at most so many lines of the answer, then hang up (for endless answers).
    #[arg(long)]
    lines: Option<usize>,
    /// Seconds in which it must be done.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// Try until it succeeds (status below 500), for at most so many seconds.
    #[arg(long)]
    until: Option<f64>,
}

/// A plain GET; see [`run`].
pub(crate) async fn get(url: &str) -> Result<Value> {
    run(Args { url: url.into(), timeout: 10.0, ..Args::default() }).await
}

/// Carries the request out; answers `{status, version, headers, body, bytes, sha256, trailers, seconds}` or `{error}`.
pub(crate) async fn run(args: Args) -> Result<Value> {
    let begin = Instant::now();
    loop {
        let start = Instant::now();
        let done = tokio::time::timeout(Duration::from_secs_f64(args.timeout), fetch(&args)).await;
        let mut value = match done {
            Ok(Ok(value)) => value,
            Ok(Err(e)) => json!({ "error": format!("{e:#}") }),
            Err(_) => json!({ "error": "timeout" }),
        };
        value["seconds"] = start.elapsed().as_secs_f64().into();
        let good = value["status"].as_u64().is_some_and(|s| s < 500);
        let patient = args.until.is_some_and(|s| begin.elapsed().as_secs_f64() < s);
        if good || !patient {
            return Ok(value);
        }
        // Polling, not synchronising: the deadline is the caller's.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

type Outgoing = UnsyncBoxBody<Bytes, Infallible>;

fn request(args: &Args, target: &Target) -> Result<Request<Outgoing>> {
    let method = args
        .method
        .clone()
        .unwrap_or_else(|| if args.body.is_some() || args.text.is_some() { "POST".into() } else { "GET".into() });
    let uri = if args.h2 { format!("http://{}{}", target.authority, target.path) } else { target.path.clone() };
    let mut builder = Request::builder().method(method.as_str()).uri(uri);
    if !args.h2 {
        builder = builder.header(header::HOST, &target.authority);
    }
    for line in &args.header {
        let (name, value) = line.split_once(':').with_context(|| format!("header {line:?} has no colon"))?;
        builder = builder.header(name.trim(), value.trim());
    }
    if let Some(text) = &args.text {
        return Ok(builder.body(Full::from(text.clone()).boxed_unsync())?);
    }
    let Some(count) = args.body else { return Ok(builder.body(Empty::new().boxed_unsync())?) };
    if !args.chunked {
        builder = builder.header(header::CONTENT_LENGTH, count);
    }
    let body = StreamBody::new(futures_util::stream::unfold(0u64, move |sent| async move {
        let n = (count - sent).min(64 << 10);
        (n != 0).then(|| (Ok(Frame::data(pattern(sent, n as usize))), sent + n))
    }));
    Ok(builder.body(body.boxed_unsync())?)
}

/// A connection, plain or TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn stream(args: &Args, target: &Target) -> Result<Box<dyn Stream>> {
    let tcp = connect(target).await?;
    if !target.tls {
        return Ok(Box::new(tcp));
    }
    let ca = args.ca.as_ref().context("https needs --ca")?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca).with_context(|| format!("{}", ca.display()))? {
        roots.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(target.host.clone())?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("TLS")?))
}

async fn fetch(args: &Args) -> Result<Value> {
    let target = Target::parse(&args.url)?;
    let request = request(args, &target)?;
    let io = TokioIo::new(stream(args, &target).await?);
    let response = if args.h2 {
        let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), io).await.context("handshake")?;
        tokio::spawn(connection);
        sender.send_request(request).await.context("request")?
    } else {
        let (mut sender, connection) = conn::http1::handshake(io).await.context("handshake")?;
        tokio::spawn(connection);
        sender.send_request(request).await.context("request")?
    };
    let (parts, mut body) = response.into_parts();
    let (mut shown, mut count, mut hash, mut trailers, mut lines) = (Vec::new(), 0u64, Sha256::new(), None, 0usize);
    while let Some(frame) = body.frame().await {
        match frame.context("answer's body")?.into_data() {
            Ok(data) => {
                count += data.len() as u64;
                hash.update(&data);
                lines += data.iter().filter(|b| **b == b'\n').count();
                shown.extend_from_slice(&data[..data.len().min(SHOWN_BYTES.saturating_sub(shown.len()))]);
            }
            Err(frame) => trailers = frame.into_trailers().ok().as_ref().map(headers),
        }
        if args.lines.is_some_and(|most| lines >= most) {
            break;
        }
    }
    Ok(json!({
        "status": parts.status.as_u16(),
        "version": format!("{:?}", parts.version),
        "headers": headers(&parts.headers),
        "body": String::from_utf8_lossy(&shown),
        "bytes": count,
        "lines": lines,
        "sha256": HEXLOWER.encode(&hash.finalize()),
        "trailers": trailers,
    }))
}
