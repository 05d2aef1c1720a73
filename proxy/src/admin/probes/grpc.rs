//! A gRPC probe: one unary call of `grpc.health.v1.Health/Check` over HTTP/2 in plain, written out by hand.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::{
    connect::{self, connect},
    failure::ProbeFailure,
};

/// Bytes before a message: compressed flag and length (gRPC over HTTP/2).
const PREFIX: usize = 5;
/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// Asks for the health of `service`.
pub(super) async fn check(host: &str, port: u16, service: &str) -> Result<String, ProbeFailure> {
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let failed = |e: &dyn std::fmt::Display| ProbeFailure::new(format!("gRPC health check of {authority}: {e}"));
    let tcp = connect(host, port).await?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp));
    let (mut sender, connection) = handshake.await.map_err(|e| failed(&e))?;
    // Ends with the exchange: the sender goes, and the body with it.
    tokio::spawn(async move { connection.await.is_ok() });
    let mut request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(frame(service)))
        .map_err(|e| failed(&e))?;
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(connect::USER_AGENT));
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    if response.status() != http::StatusCode::OK {
        return Err(failed(&format!("HTTP status {}", response.status())));
    }
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|e| failed(&e))?;
    let trailers = body.trailers().unwrap_or(&head.headers);
    let code = trailers.get("grpc-status").and_then(|s| s.to_str().ok()).unwrap_or("missing").to_owned();
    match code.as_str() {
        "0" => read(&body.to_bytes()).map_err(|e| failed(&e)),
        "12" => Err(failed(&"the server does not implement the gRPC health protocol (status 12)")),
        code => Err(failed(&format!("gRPC status {code}"))),
    }
}

fn frame(service: &str) -> Bytes {
    let message = CheckRequest { service: service.into() };
    let mut out = BytesMut::with_capacity(PREFIX + message.encoded_len());
    out.put_u8(0);
    out.put_u32(message.encoded_len() as u32);
    out.extend_from_slice(&message.encode_to_vec());
    out.freeze()
}

fn read(body: &[u8]) -> Result<String, String> {
    let message = match body.split_first_chunk::<PREFIX>() {
        Some(([0, a, b, c, d], rest)) => rest.get(..u32::from_be_bytes([*a, *b, *c, *d]) as usize),
        _ => None,
    };
    let message = message.ok_or("the answer is no gRPC message")?;
    match CheckResponse::decode(message).map_err(|e| e.to_string())?.status {
        SERVING => Ok("SERVING".into()),
        other => Err(format!("service unhealthy (responded with status {other})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: i32) -> Vec<u8> {
        let message = CheckResponse { status }.encode_to_vec();
        [&[0, 0, 0, 0, message.len() as u8], message.as_slice()].concat()
    }

    #[test]
    fn only_serving_is_healthy() {
        assert!(read(&response(1)).is_ok());
        for status in [0, 2, 3] {
            assert!(read(&response(status)).is_err());
        }
        for bad in [&b""[..], &[0, 0, 0, 0, 9, 1], &[1, 0, 0, 0, 0]] {
            assert!(read(bad).is_err());
        }
    }

    #[test]
    fn a_request_is_framed() {
        assert_eq!(&frame("")[..], [0; 5]);
        assert_eq!(&frame("a")[..], [0, 0, 0, 0, 3, 10, 1, b'a']);
    }
}
