//! Stands in for the Service before the replicas: connections go to one replica after another, and arrive there from as many addresses as
//! there are pods, because signing requests are limited for each address.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
};

/// Bytes that wait on their way, each way.
const BUFFER: usize = 4096;
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(10);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// Opens the Service's port for as long as `runtime` lives; gives its address.
///
/// # Errors
/// When there is no free port.
pub(super) fn open(runtime: &Handle, replicas: Vec<SocketAddr>, pods: u32) -> Result<SocketAddr> {
    let _inside = runtime.enter();
    let socket = TcpSocket::new_v4().context("cannot make a socket")?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("cannot bind the Service's port")?;
    let listener = socket.listen(BACKLOG).context("cannot open the Service's port")?;
    let address = listener.local_addr().context("the Service's port has no address")?;
    runtime.spawn(serve(listener, replicas.into(), pods));
    Ok(address)
}

async fn serve(listener: TcpListener, replicas: Arc<[SocketAddr]>, pods: u32) {
    let mut turn = 0_u32;
    loop {
        let Ok((caller, _)) = listener.accept().await else {
            // Too many files are open; whoever was not accepted tries again.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        turn = turn.wrapping_add(1);
        let Some(replica) = replicas.get(turn as usize % replicas.len().max(1)).copied() else { return };
        let source = source(turn / u32::try_from(replicas.len()).unwrap_or(1) % pods.max(1));
        tokio::spawn(async move {
            // How connections end is told at both of their ends.
            let _ = pass(caller, source, replica).await;
        });
    }
}

async fn pass(mut caller: TcpStream, source: SocketAddrV4, replica: SocketAddr) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(source.into())?;
    let mut callee = socket.connect(replica).await?;
    caller.set_nodelay(true)?;
    callee.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut caller, &mut callee, BUFFER, BUFFER).await?;
    Ok(())
}

/// 127.1.0.0 and on: any port of an address of its own.
fn source(pod: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + pod % (1 << 20)), 0)
}
