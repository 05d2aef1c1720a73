//! Opens connections: TCP, and mutual TLS with the identity that is expected there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    contract::{
        bootstrap::{Reason, tunnel},
        spiffe::SpiffeId,
    },
    data_path::http::local_reply::Failure,
    identity::{store::Store, tls, trust::Standing},
};

/// Longest time for a TCP connection to an endpoint.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// After this time of silence a peer is asked whether it is still there; for so long data may be on the way to another proxy
/// unacknowledged before that counts as dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// What a peer that vanished is noticed by. Whatever the application set on its socket ends at the proxy: it is for the proxy to keep
/// the connection, and what remembers it on the way, alive.
pub(crate) fn keepalive() -> socket2::TcpKeepalive {
    socket2::TcpKeepalive::new().with_time(DEAD_AFTER).with_interval(DEAD_AFTER / 3).with_retries(3)
}

/// Sets what every connection that is dialled has.
pub(crate) fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive());
}

/// Opens a TCP connection.
pub(crate) async fn connect(to: SocketAddr) -> Result<TcpStream, Failure> {
    let failed = |why: String| Failure::new(Reason::ConnectFailed, format!("cannot connect to {to}: {why}"));
    let stream = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(to))
        .await
        .map_err(|_| failed(format!("no answer within {} s", CONNECT_DEADLINE.as_secs())))?
        .map_err(|e| failed(e.to_string()))?;
    prepare(&stream);
    Ok(stream)
}

/// Opens a connection to the proxy at `to`, makes sure that it is `expected`, and tells what it stands on.
pub(crate) async fn secure(
    store: &Arc<Store>,
    to: SocketAddr,
    sni: &ServerName<'static>,
    expected: &SpiffeId,
) -> Result<(TlsStream<TcpStream>, Standing), Failure> {
    let Some(current) = store.current() else {
        return Err(Failure::new(Reason::TlsFailed, "this proxy has no leaf yet: the control plane was never reached"));
    };
    let tcp = connect(to).await?;
    let _ = socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(DEAD_AFTER));

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
    let standing = Standing::new(store, &current, session.peer_certificates().unwrap_or_default());
    Ok((stream, standing))
}
