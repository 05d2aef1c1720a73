//! Reads what a client says first, until it tells the protocol.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::data_path::{
    forward::detect::{DetectedProtocol, detect},
    limits::messages::HEAD_DEADLINE,
};

/// How long a client may be silent before its far end is dialled.
const DETECTION_TIMEOUT: Duration = Duration::from_millis(50);
/// How long a client may leave it open what it speaks once it has begun to.
const UNDECIDED_TIMEOUT: Duration = Duration::from_secs(1);
/// Read at once of what a client says first.
const READ_SIZE: usize = 1 << 10;

/// The client's protocol, or nothing if it said nothing that tells within [`DETECTION_TIMEOUT`].
pub(crate) async fn read_unless_silent(stream: &mut TcpStream, first: &mut BytesMut) -> Option<DetectedProtocol> {
    tokio::time::timeout(DETECTION_TIMEOUT, read(stream, first)).await.ok()
}

/// The client's protocol, or nothing if it takes too long to say what tells. How long it is silent before is its own affair.
pub(crate) async fn read_in_time(stream: &mut TcpStream, first: &mut BytesMut) -> Option<DetectedProtocol> {
    if stream.readable().await.is_err() {
        return Some(DetectedProtocol::Opaque);
    }
    tokio::time::timeout(HEAD_DEADLINE, read(stream, first)).await.ok()
}

/// Reads until it is clear what the client speaks; one that ends before that is opaque.
pub(crate) async fn read(stream: &mut TcpStream, first: &mut BytesMut) -> DetectedProtocol {
    loop {
        match more(stream, first).await {
            Ok(0) | Err(_) => return DetectedProtocol::Opaque,
            Ok(_) => {
                if let Some(protocol) = detect(first) {
                    return protocol;
                }
            }
        }
    }
}

/// As [`read`]; a client that has begun and leaves it open for [`UNDECIDED_TIMEOUT`] speaks nothing that is known: it waits for an answer to
/// what it said.
pub(crate) async fn read_once_begun(stream: &mut TcpStream, first: &mut BytesMut) -> DetectedProtocol {
    if first.is_empty() && stream.readable().await.is_err() {
        return DetectedProtocol::Opaque;
    }
    tokio::time::timeout(UNDECIDED_TIMEOUT, read(stream, first)).await.unwrap_or(DetectedProtocol::Opaque)
}

async fn more(stream: &mut TcpStream, first: &mut BytesMut) -> io::Result<usize> {
    // Nothing is allocated for a client that is silent.
    stream.readable().await?;
    first.reserve(READ_SIZE);
    stream.read_buf(first).await
}
