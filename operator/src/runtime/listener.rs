//! TCP accept → TLS handshake → handler: bounded in number ([`connections`]) and time. Used by the webhook and by the control server.

mod connections;

pub use connections::{ConnectionLimits, ConnectionPermit, InUse};

use std::{
    future::Future,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use prometheus_client::{encoding::EncodeLabelSet, metrics::counter::Counter, metrics::family::Family};
use rustls::{ServerConfig, server::Acceptor};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use self::connections::Connections;
use crate::runtime::shutdown::Shutdown;

/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Pause after a failed accept: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long open connections may take to end after shutdown was requested.
const END_DEADLINE: Duration = Duration::from_secs(15);

/// Label `reason`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// Why.
    pub reason: &'static str,
}

/// A port is taken, or must not be opened.
#[derive(Debug, thiserror::Error)]
#[error("port {port} cannot be opened: {error}; check what else listens on it")]
pub struct ListenError {
    /// The port.
    pub port: u16,
    /// Why.
    pub error: std::io::Error,
}

/// Opens a port on every address; IPv4 only where the node has no IPv6.
///
/// # Errors
/// When it is taken.
pub async fn open(port: u16) -> Result<TcpListener, ListenError> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await.map_err(|error| ListenError { port, error }),
    }
}

/// A TLS server.
pub struct Server {
    /// How many connections there may be.
    pub limits: ConnectionLimits,
    /// Connections that were refused, failed or ended because of a bound, by reason: `too-many`, `too-many-of-address`, `made-room` (an
    /// idle one was evicted for another), `unused`, `unknown-name`, `handshake`.
    pub refused: Family<ReasonLabel, Counter>,
    /// Asks it to end.
    pub shutdown: Shutdown,
}

impl Server {
    /// Accepts until the end of the time for which a replica that ends still serves, then waits for what is open. `choose` gives the TLS
    /// configuration for an SNI; `None` refuses.
    pub async fn run<C, H, F>(self, listener: TcpListener, choose: C, handle: H)
    where
        C: Fn(Option<&str>) -> Option<Arc<ServerConfig>> + Send + Sync + 'static,
        H: Fn(TlsStream<TcpStream>, SocketAddr, ConnectionPermit) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send,
    {
        let shared = Arc::new((choose, handle));
        let connections = Connections::new(self.limits);
        let mut open = JoinSet::new();
        let over = self.shutdown.over();
        let mut over = std::pin::pin!(over);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = open.join_next() => continue,
                () = over.as_mut() => break,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let permit = match connections.take(peer.ip().to_canonical()) {
                Ok((permit, evicted)) => {
                    self.count("made-room", evicted);
                    permit
                }
                Err(limit) => {
                    self.count(limit.reason(), 1);
                    continue;
                }
            };
            let (shared, refused, held) = (Arc::clone(&shared), self.refused.clone(), permit.clone());
            let task = open.spawn(async move {
                match handshake(tcp, &shared.0).await {
                    Ok(tls) => (shared.1)(tls, peer, held).await,
                    Err(reason) => {
                        tracing::debug!(%peer, reason, "a connection was refused");
                        refused.get_or_create(&ReasonLabel { reason }).inc();
                    }
                }
            });
            permit.belongs_to(task);
        }
        let ended = tokio::time::timeout(END_DEADLINE, async { while open.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!(open = open.len(), "connections are cut: they did not end within {END_DEADLINE:?}");
        }
    }

    fn count(&self, reason: &'static str, times: usize) {
        if times > 0 {
            self.refused.get_or_create(&ReasonLabel { reason }).inc_by(times as u64);
        }
    }
}

async fn handshake<C>(tcp: TcpStream, choose: &C) -> Result<TlsStream<TcpStream>, &'static str>
where
    C: Fn(Option<&str>) -> Option<Arc<ServerConfig>>,
{
    let _ = tcp.set_nodelay(true);
    let whole = async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(|_| "handshake")?;
        let config = choose(start.client_hello().server_name()).ok_or("unknown-name")?;
        start.into_stream(config).await.map_err(|_| "handshake")
    };
    tokio::time::timeout(HANDSHAKE_DEADLINE, whole).await.unwrap_or(Err("handshake"))
}
