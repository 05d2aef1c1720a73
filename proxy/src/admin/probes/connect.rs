//! How every kind of probe reaches the application.

use tokio::net::TcpStream;

use super::failure::ProbeFailure;

/// What the kubelet calls itself: nothing that a caller says goes on to the application.
pub(super) const USER_AGENT: &str = "kube-probe/1.36";

/// Connects to a port of the application; the error reads as the kubelet's.
pub(super) async fn connect(host: &str, port: u16) -> Result<TcpStream, ProbeFailure> {
    let failed = |e| ProbeFailure::new(format!("dial tcp {host}:{port}: {e}"));
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}
