//! Connections of other proxies: authenticate → decide → HTTP/2.

use std::{rc::Rc, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    contract::{
        reason::Reason,
        spiffe::SpiffeId,
        tunnel::{self, App},
    },
    data_path::{
        buffer::coalesce::Coalesced,
        drain::Drain,
        failure::Failure,
        http::{connection::ConnectionContext, server::http2},
        limits::{connections::ConnectionPermit, handshakes::HandshakeLimit},
        observe::reporter::Reporter,
        route::inbound::InboundRoutes,
    },
    identity::{store::Store, tls, trust::TrustWatch},
    telemetry::metrics::Direction,
};

const DIRECTION: Direction = Direction::Inbound;

/// What these connections are served with.
pub(crate) struct MeshListener {
    pub(crate) store: Arc<Store>,
    pub(crate) handshakes: HandshakeLimit,
    pub(crate) routes: Rc<InboundRoutes>,
    pub(crate) reporter: Rc<Reporter>,
    pub(crate) drain: Arc<Drain>,
}

/// A handshake that succeeded.
struct Authenticated {
    stream: TlsStream<TcpStream>,
    peer: SpiffeId,
    standing: TrustWatch,
    port: u16,
    app: App,
}

impl MeshListener {
    /// Serves a connection to its end.
    pub(crate) async fn serve(self: Rc<Self>, stream: TcpStream, permit: ConnectionPermit) {
        let Ok(local) = stream.local_addr() else { return };
        let authenticated = match self.handshakes.run(Box::pin(authenticate(&self.store, stream))).await {
            Some(Ok(authenticated)) => authenticated,
            Some(Err(failure)) => return self.reporter.refused(DIRECTION, &failure),
            None => {
                let detail = "a handshake was given up: too many are under way".to_owned();
                return self.reporter.refused(DIRECTION, &Failure::new(Reason::Overloaded, detail));
            }
        };
        let Authenticated { stream, peer, standing, port, app } = authenticated;
        let route = match self.routes.route_peer(local.ip(), port, &peer) {
            Ok(route) => route,
            Err(failure) => return self.reporter.refused(DIRECTION, &failure),
        };
        let (service, metrics) = (&self.routes.workload, &self.reporter.metrics);
        let tunnels = (app == App::Tcp).then(|| metrics.tcp(DIRECTION, service, peer.as_str(), true));
        let context = Rc::new(ConnectionContext {
            route,
            direction: DIRECTION,
            app,
            service: Rc::clone(service),
            tunnels,
            reporter: Rc::clone(&self.reporter),
            drain: Arc::clone(&self.drain),
            _permit: permit,
        });
        http2::serve(context, Coalesced::new(stream), self.drain.watch(), Some(standing)).await;
    }
}

async fn authenticate(store: &Arc<Store>, stream: TcpStream) -> Result<Authenticated, Failure> {
    let from = stream.peer_addr().map_or_else(|_| "a peer".to_owned(), |a| a.to_string());
    let Some(current) = store.current() else {
        return Err(Failure::new(Reason::TlsFailed, format!("{from} was refused: this proxy has no leaf yet")));
    };
    let failed = |why: String| Failure::new(Reason::TlsFailed, format!("handshake with {from}: {why}"));
    let acceptor = TlsAcceptor::from(Arc::clone(&current.tls.server));
    let stream = tokio::time::timeout(tls::HANDSHAKE_DEADLINE, acceptor.accept(stream))
        .await
        .map_err(|_| failed("it did not finish in time".into()))?
        .map_err(|e| failed(e.to_string()))?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(tunnel::ALPN) {
        return Err(failed("the peer does not speak bowline/1".into()));
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let peer = tls::peer_identity(Some(chain), &current.bundle.trust_domain)
        .map_err(|e| Failure::new(Reason::WrongIdentity, format!("{from}: {e}")))?;
    let standing = TrustWatch::new(store, &current, chain);
    let (port, app) = session
        .server_name()
        .and_then(tunnel::parse_sni)
        .ok_or_else(|| Failure::new(Reason::BadRequest, format!("{peer} did not say which port it wants")))?;
    Ok(Authenticated { stream, peer, standing, port, app })
}
