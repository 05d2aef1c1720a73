//! The HTTP server: HTTP/1.1 and HTTP/2 with prior knowledge on one port.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;

use crate::{
    health::Health,
    page::Page,
    pattern::pattern,
    pod::pod,
    response::{Body, headers, json_answer, text},
    websocket,
};

/// Largest body that the echo holds in memory; `/upload` takes any.
const MAX_ECHO_BYTES: usize = 1 << 20;
/// Bytes that generated bodies are made of at a time.
const CHUNK: usize = 64 << 10;

/// What requests are answered from.
pub(crate) struct Site {
    /// See [`Health`].
    pub(crate) health: Arc<Health>,
    /// See [`Page`].
    pub(crate) page: Page,
}

/// Serves one connection.
pub(crate) async fn serve(stream: TcpStream, peer: SocketAddr, site: Arc<Site>) {
    let service = hyper::service::service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(answer(request, peer, &site).await) }
    });
    // A client that goes away is no failure of the server.
    let _ =
        auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, peer: SocketAddr, site: &Site) -> Response<Body> {
    let health = &*site.health;
    let path = request.uri().path().to_owned();
    let (first, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    let number = || rest.parse::<u64>().unwrap_or(0);
    match first {
        "status" => {
            let status =
                rest.parse().ok().and_then(|n| StatusCode::from_u16(n).ok()).unwrap_or(StatusCode::BAD_REQUEST);
            text(status, format!("status {}\n", status.as_u16()))
        }
        "delay" => {
            tokio::time::sleep(Duration::from_millis(number())).await;
            text(StatusCode::OK, format!("waited {} ms\n", number()))
        }
        "bytes" => bytes(number()),
        "chunked" => chunked(number()),
        "stream" => events(number()),
        "upload" => upload(request).await,
        "page" => site.page.answer().await,
        "ws" => websocket::accept(request),
        "healthz" if health.is_healthy("http") => text(StatusCode::OK, "ok\n".into()),
        "healthz" => text(StatusCode::SERVICE_UNAVAILABLE, "unhealthy\n".into()),
        "hook" => {
            println!("hook {rest}");
            health.hook_called(rest);
            // Whoever counts the calls knows by now that this one is in flight.
            let wait = request.uri().query().and_then(|q| q.strip_prefix("wait=")).and_then(|ms| ms.parse().ok());
            tokio::time::sleep(Duration::from_millis(wait.unwrap_or(0))).await;
            text(StatusCode::OK, format!("hook {rest}\n"))
        }
        "refuse" => text(StatusCode::EXPECTATION_FAILED, "not wanted\n".into()),
        _ => echo(request, peer).await,
    }
}

async fn echo(request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = http_body_util::Limited::new(body, MAX_ECHO_BYTES).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "use /upload\n".into());
    };
    let trailers = body.trailers().map(headers);
    let body = body.to_bytes();
    json_answer(&json!({
        "pod": pod(),
        "method": parts.method.as_str(),
        "path": parts.uri.path_and_query().map_or("/", |p| p.as_str()),
        "authority": parts.uri.authority().map(ToString::to_string),
        "version": format!("{:?}", parts.version),
        "headers": headers(&parts.headers),
        "body": String::from_utf8_lossy(&body),
        "trailers": trailers,
        "peer": peer.ip().to_canonical().to_string(),
    }))
}

async fn upload(request: Request<Incoming>) -> Response<Body> {
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut body = request.into_body();
    let (mut count, mut hash) = (0u64, Sha256::new());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                count += data.len() as u64;
                hash.update(&data);
            }
            Ok(Err(_trailers)) => {}
            Err(e) => return text(StatusCode::BAD_REQUEST, format!("body broke after {count} bytes: {e}\n")),
        }
    }
    json_answer(
        &json!({ "pod": pod(), "bytes": count, "sha256": HEXLOWER.encode(&hash.finalize()), "chunked": chunked }),
    )
}

/// `count` bytes of a known pattern, with a length.
fn bytes(count: u64) -> Response<Body> {
    let body = StreamBody::new(stream::unfold(0u64, move |sent| async move {
        let n = (count - sent).min(CHUNK as u64);
        (n != 0).then(|| (Ok(Frame::data(pattern(sent, n as usize))), sent + n))
    }));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(header::CONTENT_LENGTH, count.into());
    response
}

/// `count` numbered chunks without a length.
fn chunked(count: u64) -> Response<Body> {
    let lines = (0..count).map(|i| Ok(Frame::data(Bytes::from(format!("chunk {i}\n")))));
    Response::new(StreamBody::new(stream::iter(lines)).boxed_unsync())
}

/// Numbered lines for as long as the client listens; the default interval is 100 ms.
fn events(interval_ms: u64) -> Response<Body> {
    let interval = Duration::from_millis(if interval_ms == 0 { 100 } else { interval_ms });
    let body = StreamBody::new(stream::unfold(0u64, move |sequence| async move {
        if sequence > 0 {
            tokio::time::sleep(interval).await;
        }
        Some((Ok(Frame::data(Bytes::from(format!("{sequence}\n")))), sequence + 1))
    }));
    Response::new(body.boxed_unsync())
}
