//! gRPC over TLS: connections → identity or control service.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use bowline_proxy::contract::{
    proto::{control_server::ControlServer, identity_server::IdentityServer, replica_server::ReplicaServer},
    spiffe::SpiffeId,
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tonic::{Status, body::Body};
use tower::ServiceExt;

use super::{
    measure::Measures,
    replicas::ReplicaService,
    stream::ControlService,
    subscribers::Hub,
    tls::{identity, mesh_of},
};
use crate::{
    runtime::{
        context::Ctx,
        listener::{Bounds, Server, Slot},
        shutdown::Shutdown,
    },
    serving::identity::IdentityService,
};

/// In all twice what 5,000 proxies need, so that one replica can serve alone what two serve together. One address is a pod, or a node
/// with all of its pods, each with a stream and now and then a request to sign. A connection with a control stream makes room for nobody,
/// and each pod has two streams at most; any other needs its place for well below a second.
const BOUNDS: Bounds = Bounds { all: 10_000, address: 1_024, idle: 1_024 };
/// How long a connection without a client certificate may last: longer than a proxy waits for its leaf.
const UNAUTHENTICATED: Duration = Duration::from_secs(15);
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_DEADLINE: Duration = Duration::from_secs(10);
/// Requests on one connection at a time: a proxy has one stream, and signs now and then.
const MAX_REQUESTS: u32 = 8;
/// Largest head of a request, in bytes.
const MAX_HEAD_BYTES: u32 = 16 << 10;
/// Bytes per stream that wait for a slow client.
const SEND_BUFFER: usize = 256 << 10;
/// Largest signing request, in bytes: a token, a CSR of 4 KiB, and room to say what is wrong with larger ones.
const MAX_SIGN_BYTES: usize = 64 << 10;
/// Largest message of a proxy, in bytes: a Hello with everything that it may subscribe to.
const MAX_PROXY_BYTES: usize = 4 << 20;

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Name of the Mesh that its SNI named.
    pub mesh: String,
    /// Its address.
    pub ip: IpAddr,
    /// What its certificate proved.
    pub identity: Option<SpiffeId>,
    /// The connection's place, which a control stream keeps.
    pub slot: Slot,
}

type Services = (IdentityServer<IdentityService>, ControlServer<ControlService>, ReplicaServer<ReplicaService>);

/// Serves until shutdown.
pub async fn run(ctx: Arc<Ctx>, hub: Hub, measures: Measures, listener: TcpListener) {
    let tls = ctx.tls.clone();
    tls.refresh(&ctx, &hub, std::time::SystemTime::now());
    let keep = tls.clone().keep(Arc::clone(&ctx), hub.clone());
    let server = Server { bounds: BOUNDS, refused: measures.refused.clone(), shutdown: ctx.shutdown.clone() };
    let shutdown = ctx.shutdown.clone();
    let identity = IdentityServer::new(IdentityService::new(Arc::clone(&ctx), measures.clone()))
        .max_decoding_message_size(MAX_SIGN_BYTES);
    let replica = ReplicaServer::new(ReplicaService::new(Arc::clone(&ctx))).max_decoding_message_size(MAX_SIGN_BYTES);
    let control =
        ControlServer::new(ControlService::new(ctx, hub, measures)).max_decoding_message_size(MAX_PROXY_BYTES);
    let services = (identity, control, replica);
    let choose = move |sni: Option<&str>| tls.choose(sni);
    let serve = server.run(listener, choose, move |tls, peer, slot| {
        connection(tls, peer.ip().to_canonical(), slot, services.clone(), shutdown.clone())
    });
    tokio::select! {
        () = serve => {}
        () = keep => {}
    }
}

async fn connection(tls: TlsStream<TcpStream>, ip: IpAddr, slot: Slot, services: Services, shutdown: Shutdown) {
    let session = tls.get_ref().1;
    let Some(mesh) = session.server_name().and_then(mesh_of).map(ToOwned::to_owned) else { return };
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let peer = Arc::new(Peer { mesh, ip, identity: certificate.and_then(identity), slot });
    let limit = certificate.is_none().then_some(UNAUTHENTICATED);
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&peer));
        route(request, services.clone())
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_DEADLINE)
        .max_concurrent_streams(MAX_REQUESTS)
        .max_header_list_size(MAX_HEAD_BYTES)
        .max_send_buf_size(SEND_BUFFER);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(tls), service));
    let expired = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    // How a connection ends is the peer's business; streams report their own ends.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.over() => {}
        () = expired => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(KEEPALIVE_DEADLINE, connection).await;
}

async fn route(
    request: http::Request<Incoming>,
    (identity, control, replica): Services,
) -> Result<http::Response<Body>, Infallible> {
    match request.uri().path().rsplit_once('/').map(|(service, _)| service) {
        Some("/bowline.v1.Identity") => identity.oneshot(request).await,
        Some("/bowline.v1.Control") => control.oneshot(request).await,
        Some("/bowline.v1.Replica") => replica.oneshot(request).await,
        _ => Ok(Status::unimplemented("there is no such service here: Identity, Control and Replica are served")
            .into_http()),
    }
}
