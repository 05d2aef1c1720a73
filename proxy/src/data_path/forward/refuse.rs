//! Refuses a connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use crate::{
    data_path::{
        buffer::prefixed::Prefixed,
        connect::socket::reset_on_close,
        drain::Watch,
        failure::Failure,
        forward::{
            detect::{DetectedProtocol, detect},
            first_bytes::read,
        },
        http::server::{http1, http2},
        observe::reporter::Reporter,
    },
    telemetry::metrics::Direction,
};

/// How long a client whose connection is refused is listened to, so that it can be told why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Refuses a connection: HTTP with a status and why, anything else with a reset.
pub(crate) async fn refuse(
    reporter: &Reporter,
    drain: Watch,
    direction: Direction,
    mut stream: TcpStream,
    mut first: BytesMut,
    failure: Failure,
) {
    reporter.refused(direction, &failure);
    let protocol = match detect(&first) {
        Some(protocol) => Ok(protocol),
        None => tokio::time::timeout(REFUSAL_TIMEOUT, read(&mut stream, &mut first)).await,
    };
    let first: Bytes = first.freeze();
    match protocol {
        Ok(DetectedProtocol::Http1) => http1::refuse(failure, Prefixed::new(first, stream), drain).await,
        Ok(DetectedProtocol::Http2) => http2::refuse(failure, Prefixed::new(first, stream), drain).await,
        Ok(DetectedProtocol::Opaque) | Err(_) => reset_on_close(&stream),
    }
}
