//! Listeners: every port is opened and accepted on alike.

use std::{future::Future, net::SocketAddr};

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream};

/// Listens on all addresses, IPv6 too where the node has it.
pub(crate) async fn listen(port: u16) -> Result<TcpListener> {
    match TcpListener::bind(("::", port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("bind port {port}")),
    }
}

/// One task for each connection.
pub(crate) fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream, SocketAddr) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        loop {
            // Only a lack of descriptors fails here: the next connection may find one.
            let Ok((stream, peer)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream, peer));
        }
    });
}
