//! Connections to addresses that the mesh knows nothing of.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::{io::Interest, net::TcpStream};

use crate::{
    contract::reason::Reason,
    data_path::{
        connect::socket, drain::Watch, failure::Failure, observe::reporter::Reporter, tunnel::upstream::TunnelUpstream,
    },
    telemetry::metrics::{Direction, PLAINTEXT},
};

/// How long a connection is still being made for a client that has closed its side: it may want to hear the answer.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Returns when the client has gone: at once when it broke off, [`HALF_CLOSE_TIMEOUT`] after it has said all that it will ever say.
async fn gone(stream: &TcpStream) {
    // A stream whose other side is closed counts as ready for priority data too (tokio).
    match stream.ready(Interest::ERROR | Interest::PRIORITY).await {
        Ok(ready) if !ready.is_error() => tokio::time::sleep(HALF_CLOSE_TIMEOUT).await,
        Ok(_) | Err(_) => {}
    }
}

/// Bytes to an address that the mesh knows nothing of, unchanged and unseen.
pub(crate) async fn pass_through(reporter: &Reporter, drain: Watch, stream: TcpStream, to: SocketAddr) {
    // For as long as the kernel tries, as without the mesh, and as the client waits.
    let connected = tokio::select! {
        biased;
        connected = TcpStream::connect(to) => connected,
        () = gone(&stream) => return,
    };
    match connected {
        Ok(server) => {
            socket::set_options(&server);
            let _open = reporter.metrics.open(Direction::Outbound);
            let count = reporter.metrics.tcp(Direction::Outbound, "outside", PLAINTEXT, false);
            count.fetch_add(1, Relaxed);
            let upstream = TunnelUpstream::Plain(server);
            upstream.forward(stream, &[], &reporter.metrics, Direction::Outbound, drain).await;
        }
        // As without the mesh, the client sees its connection fail.
        Err(e) => {
            let detail = format!("cannot connect to {to}, outside the mesh: {e}");
            reporter.refused(Direction::Outbound, &Failure::new(Reason::ConnectFailed, detail));
            socket::reset_on_close(&stream);
        }
    }
}
