//! The identity and control server, on one TLS port of every replica: connections come in, and go to the identity, control or replica
//! service; the SNI names the Mesh.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bowline_proxy::contract::proto::{
    control_server::ControlServer, identity_server::IdentityServer, replica_server::ReplicaServer,
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_client::metrics::{counter::Counter, family::Family};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::server::TlsStream;
use tonic::{Status, body::Body};
use tower::ServiceExt;

use super::{
    control::service::ControlService,
    identity::service::IdentityService,
    peer::{Peer, identity, mesh_of},
    replicas::service::ReplicaService,
    tls::TlsRenewal,
};
use crate::runtime::{
    listener::{self, ConnectionLimits, ConnectionPermit, ReasonLabel},
    readiness::ReadinessCheck,
    shutdown::{Shutdown, TaskResult},
};

/// In all twice what 5,000 proxies need, so that one replica can serve alone what two serve together. One address is a pod, or a node
/// with all of its pods, each with a stream and now and then a request to sign. A connection with a control stream is not evicted, and each
/// pod has two streams at most; any other is needed for well below a second.
const LIMITS: ConnectionLimits = ConnectionLimits { all: 10_000, address: 1_024, idle: 1_024 };
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

type Services = (IdentityServer<IdentityService>, ControlServer<ControlService>, ReplicaServer<ReplicaService>);

/// The server.
pub struct Server {
    /// Signs leaves.
    pub identity: IdentityService,
    /// Sends configuration.
    pub control: ControlService,
    /// Answers other replicas.
    pub replica: ReplicaService,
    /// Keeps fresh what it proves and verifies with.
    pub tls: TlsRenewal,
    /// Connections that failed before they could be used.
    pub refused: Family<ReasonLabel, Counter>,
    /// Asks it to end.
    pub shutdown: Shutdown,
}

impl Server {
    /// Serves until shutdown. Opens the port when the index is `filled`: before that, every address would seem unknown. `ready` is set then.
    ///
    /// # Errors
    /// When the port cannot be opened.
    pub async fn serve(self, port: u16, filled: oneshot::Receiver<()>, ready: ReadinessCheck) -> TaskResult {
        tokio::select! {
            // An error means that the task is gone, which the process ends with.
            _ = filled => {}
            () = self.shutdown.requested() => return Ok(()),
        }
        let listener = listener::open(port).await?;
        ready.set(true);
        self.run(listener).await;
        Ok(())
    }

    /// As [`Server::serve`], on an open port.
    pub async fn run(self, listener: TcpListener) {
        let tls = self.tls.tls.clone();
        self.tls.refresh(SystemTime::now());
        let services = (
            IdentityServer::new(self.identity).max_decoding_message_size(MAX_SIGN_BYTES),
            ControlServer::new(self.control).max_decoding_message_size(MAX_PROXY_BYTES),
            ReplicaServer::new(self.replica).max_decoding_message_size(MAX_SIGN_BYTES),
        );
        let shutdown = self.shutdown.clone();
        let server = listener::Server { limits: LIMITS, refused: self.refused, shutdown: self.shutdown };
        let choose = move |sni: Option<&str>| tls.choose(sni);
        let serve = server.run(listener, choose, move |tls, peer, permit| {
            connection(tls, peer.ip().to_canonical(), permit, services.clone(), shutdown.clone())
        });
        tokio::select! {
            () = serve => {}
            () = self.tls.run() => {}
        }
    }
}

async fn connection(
    tls: TlsStream<TcpStream>,
    ip: IpAddr,
    permit: ConnectionPermit,
    services: Services,
    shutdown: Shutdown,
) {
    let session = tls.get_ref().1;
    let Some(mesh) = session.server_name().and_then(mesh_of).map(ToOwned::to_owned) else { return };
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let peer = Arc::new(Peer { mesh, ip, identity: certificate.and_then(identity), permit });
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
