//! Opens connections: TCP, and mutual TLS with the identity that is expected there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    contract::{reason::Reason, spiffe::SpiffeId, tunnel},
    data_path::{
        connect::socket,
        drain::{Drain, Open},
        failure::Failure,
    },
    identity::{store::Store, tls, trust::TrustWatch},
};

/// Longest time for a TCP connection to an endpoint.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// What connections to other proxies are opened with.
pub(crate) struct Dialer {
    store: Arc<Store>,
    drain: Arc<Drain>,
}

impl Dialer {
    pub(crate) fn new(store: Arc<Store>, drain: Arc<Drain>) -> Self {
        Self { store, drain }
    }

    /// Counts a connection that a drain waits for.
    pub(super) fn count(&self) -> Open {
        self.drain.open()
    }

    /// Opens a connection to the proxy at `to`, makes sure that it is `expected`, and tells what trust it stands on.
    pub(super) async fn secure(
        &self,
        to: SocketAddr,
        sni: &ServerName<'static>,
        expected: &SpiffeId,
    ) -> Result<(TlsStream<TcpStream>, TrustWatch), Failure> {
        let Some(current) = self.store.current() else {
            return Err(Failure::new(
                Reason::TlsFailed,
                "this proxy has no leaf yet: the control plane was never reached",
            ));
        };
        let tcp = connect(to).await?;
        let _ = socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(socket::DEAD_AFTER));

        let failed = |why: String| Failure::new(Reason::TlsFailed, format!("handshake with the proxy at {to}: {why}"));
        let connector = TlsConnector::from(Arc::clone(&current.tls.client));
        let stream = tokio::time::timeout(tls::HANDSHAKE_DEADLINE, connector.connect(sni.clone(), tcp))
            .await
            .map_err(|_| failed(format!("no answer within {} s", tls::HANDSHAKE_DEADLINE.as_secs())))?
            .map_err(|e| failed(e.to_string()))?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(tunnel::ALPN) {
            return Err(failed("it does not speak bowline/1".into()));
        }
        let wrong = |why: String| Failure::new(Reason::WrongIdentity, format!("{to}: {why}"));
        let found = tls::peer_identity(session.peer_certificates(), &current.bundle.trust_domain)
            .map_err(|e| wrong(e.to_string()))?;
        if found != *expected {
            return Err(wrong(format!("expected was {expected}, there is {found}")));
        }
        let standing = TrustWatch::new(&self.store, &current, session.peer_certificates().unwrap_or_default());
        Ok((stream, standing))
    }
}

/// Opens a TCP connection.
pub(crate) async fn connect(to: SocketAddr) -> Result<TcpStream, Failure> {
    let failed = |why: String| Failure::new(Reason::ConnectFailed, format!("cannot connect to {to}: {why}"));
    let stream = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(to))
        .await
        .map_err(|_| failed(format!("no answer within {} s", CONNECT_DEADLINE.as_secs())))?
        .map_err(|e| failed(e.to_string()))?;
    socket::set_options(&stream);
    Ok(stream)
}
