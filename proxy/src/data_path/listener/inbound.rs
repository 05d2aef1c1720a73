//! Connections to the application: accept → authenticate → authorize → forward.
//!
//! [`mesh`] takes those of other proxies, [`plain`] what was redirected on its way to a port of the application.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    contract::{
        bootstrap::{
            Reason, ports,
            tunnel::{self, App},
        },
        spiffe::SpiffeId,
    },
    data_path::{
        balance::balancer::Route,
        buffer::coalesce::Cork,
        connect::endpoint::{Candidate, EndpointKey},
        forward::{self, Carried},
        http::{exchange::Context, local_reply::Failure, server::http2},
        limits::connections::Seat,
        listener::outbound::protocol,
        worker::Worker,
    },
    identity::{tls, trust::Standing},
    telemetry::metrics::{Direction, PLAINTEXT},
};

const DIRECTION: Direction = Direction::Inbound;

/// A handshake that succeeded.
struct Authenticated {
    stream: TlsStream<TcpStream>,
    peer: SpiffeId,
    standing: Standing,
    port: u16,
    app: App,
}

/// Carries a connection of another proxy.
pub(crate) async fn mesh(worker: Rc<Worker>, stream: TcpStream, seat: Seat) {
    let Ok(local) = stream.local_addr() else { return };
    let authenticated = match worker.handshakes.run(Box::pin(authenticate(&worker, stream))).await {
        Some(Ok(authenticated)) => authenticated,
        Some(Err(failure)) => return worker.refused(DIRECTION, &failure),
        None => {
            let detail = "a handshake was given up: too many are under way".to_owned();
            return worker.refused(DIRECTION, &Failure::new(Reason::Overloaded, detail));
        }
    };
    let Authenticated { stream, peer, standing, port, app } = authenticated;
    if ports::ALL.contains(&port) {
        let detail = format!("{peer} asked for port {port}, which is the proxy's own");
        return worker.refused(DIRECTION, &Failure::new(Reason::BadRequest, detail));
    }
    let address = worker.config.application.unwrap_or(SocketAddr::new(local.ip().to_canonical(), port));
    let endpoint = worker.direct(EndpointKey { address, identity: None });
    let series = worker.metrics.http(DIRECTION, &worker.config.workload, peer.as_str());
    let tunnels =
        (app == App::Tcp).then(|| worker.metrics.tcp(DIRECTION, &worker.config.workload, peer.as_str(), true));
    let drain = worker.drain.watch();
    let context = Rc::new(Context {
        worker: Rc::clone(&worker),
        route: Route::Direct(Rc::new(Candidate { endpoint, series })),
        direction: DIRECTION,
        app,
        service: worker.config.workload.as_str().into(),
        tunnels,
        _seat: seat,
    });
    http2::serve(context, Cork::new(stream), drain, Some(standing)).await;
}

async fn authenticate(worker: &Worker, stream: TcpStream) -> Result<Authenticated, Failure> {
    let from = stream.peer_addr().map_or_else(|_| "a peer".to_owned(), |a| a.to_string());
    let Some(current) = worker.store.current() else {
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
    let standing = Standing::new(&worker.store, &current, chain);
    let (port, app) = session
        .server_name()
        .and_then(tunnel::parse_sni)
        .ok_or_else(|| Failure::new(Reason::BadRequest, format!("{peer} did not say which port it wants")))?;
    Ok(Authenticated { stream, peer, standing, port, app })
}

/// Carries a connection that came without mutual TLS, if the policy lets it.
pub(crate) async fn plain(worker: Rc<Worker>, stream: TcpStream, to: SocketAddr, seat: Seat) {
    let policy = worker.state.inbound_policy();
    let port = to.port();
    if policy.strict {
        let from = stream.peer_addr().map_or_else(|_| "a client".to_owned(), |a| a.to_string());
        let detail = format!("{from} came to port {port} in plain, and this workload is Strict");
        let failure = Failure::new(Reason::MtlsRequired, detail);
        return Box::pin(forward::refuse(&worker, DIRECTION, stream, BytesMut::new(), failure)).await;
    }
    if ports::ALL.contains(&port) {
        worker.refused(DIRECTION, &Failure::new(Reason::BadRequest, format!("port {port} is the proxy's own")));
        return crate::data_path::tunnel::reset_on_close(&stream);
    }
    let address = worker.config.application.unwrap_or(to);
    let endpoint = worker.direct(EndpointKey { address, identity: None });
    let series = worker.metrics.http(DIRECTION, &worker.config.workload, PLAINTEXT);
    let carried = Carried {
        stream,
        port,
        declared: protocol(&policy.ports, port),
        route: Route::Plain(Rc::new(Candidate { endpoint, series })),
        direction: DIRECTION,
        service: worker.config.workload.as_str().into(),
        seat,
    };
    forward::carry(worker, carried).await;
}
