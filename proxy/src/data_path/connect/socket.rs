//! Options of sockets: how a peer that vanished is noticed, and how a connection is closed.

use std::time::Duration;

use tokio::net::TcpStream;

/// After this time of silence a peer is asked whether it is still there; for so long data may be on the way to another proxy
/// unacknowledged before that counts as dead.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(30);

/// What a peer that vanished is noticed by. Whatever the application set on its socket ends at the proxy: it is for the proxy to keep
/// the connection, and what remembers it on the way, alive.
pub(crate) fn keepalive() -> socket2::TcpKeepalive {
    socket2::TcpKeepalive::new().with_time(DEAD_AFTER).with_interval(DEAD_AFTER / 3).with_retries(3)
}

/// Sets the options that every connection to an endpoint has.
pub(crate) fn set_options(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive());
}

/// Makes closing a connection a reset: the peer is to know that it did not end in order.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
