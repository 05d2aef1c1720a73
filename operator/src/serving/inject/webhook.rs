//! The webhook server: one path, `/inject`, that answers an AdmissionReview.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, http::StatusCode, response::IntoResponse, routing::post};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_client::metrics::{counter::Counter, family::Family};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use super::review::{Reviewer, answer};
use crate::{
    cluster::lookup::MembershipLookup,
    runtime::{
        listener::{self, ConnectionLimits, ConnectionPermit, ReasonLabel, Server},
        shutdown::{Shutdown, TaskResult},
    },
    serving::certificate::ServingCertificate,
    telemetry::Metrics,
};

/// Path that the webhook configuration names.
pub const PATH: &str = "/inject";
/// API servers are few and keep few connections open, each for many reviews; one address may be a node with others on it.
const LIMITS: ConnectionLimits = ConnectionLimits { all: 512, address: 64, idle: 256 };
/// Time until the first review on a connection has arrived: an API server opens one because it has a review to send.
const FIRST_REVIEW: Duration = Duration::from_secs(10);
/// How long a review may take; the API server waits for ten seconds.
const REVIEWED: Duration = Duration::from_secs(15);
/// How long open connections may take to end.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// Time in which a client must send a request's head, and at most this long an idle connection is kept by HTTP/2 pings.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The server.
pub struct Webhook {
    reviewer: Reviewer,
    certificate: Arc<ServingCertificate>,
    refused: Family<ReasonLabel, Counter>,
    shutdown: Shutdown,
}

impl Webhook {
    /// Injects `image` where a Mesh names none, and proves itself with `certificate`.
    #[must_use]
    pub fn new(
        memberships: MembershipLookup,
        image: String,
        certificate: Arc<ServingCertificate>,
        metrics: &Metrics,
        shutdown: Shutdown,
    ) -> Self {
        let refused: Family<ReasonLabel, Counter> = Family::default();
        let reviews: Family<ReasonLabel, Counter> = Family::default();
        metrics.register(|r| {
            r.register("bowline_inject_reviews", "Admission reviews by outcome", reviews.clone());
            r.register(
                "bowline_webhook_connections_refused",
                "Connections to the webhook that failed",
                refused.clone(),
            );
        });
        Self { reviewer: Reviewer::new(memberships, image, reviews), certificate, refused, shutdown }
    }

    /// Serves admission reviews until shutdown.
    ///
    /// # Errors
    /// When the port cannot be opened.
    pub async fn serve(self, port: u16) -> TaskResult {
        let listener = listener::open(port).await?;
        self.run(listener).await;
        Ok(())
    }

    /// As [`Webhook::serve`], on an open port.
    pub async fn run(self, listener: TcpListener) {
        let Self { reviewer, certificate, refused, shutdown } = self;
        let config = tls(certificate);
        let server = Server { limits: LIMITS, refused: refused.clone(), shutdown: shutdown.clone() };
        let router = router(reviewer);
        let choose = move |_: Option<&str>| Some(Arc::clone(&config));
        server
            .run(listener, choose, move |tls, _, permit| {
                connection(tls, permit, router.clone(), refused.clone(), shutdown.clone())
            })
            .await;
    }
}

/// The certificate may change at any time, and is read at every handshake.
fn tls(serving: Arc<ServingCertificate>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(Resolver(serving)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

#[derive(Debug)]
struct Resolver(Arc<ServingCertificate>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.key()
    }
}

async fn connection(
    tls: TlsStream<TcpStream>,
    permit: ConnectionPermit,
    router: Router,
    refused: Family<ReasonLabel, Counter>,
    shutdown: Shutdown,
) {
    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let held = permit.clone();
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(held.clone());
        let router = router.clone();
        async move {
            let late = || StatusCode::REQUEST_TIMEOUT.into_response();
            let answer = tokio::time::timeout(REVIEWED, router.oneshot(request)).await;
            Ok::<_, Infallible>(answer.map_or_else(|_| late(), |Ok(answer)| answer))
        }
    });
    let serve = async {
        if h2 {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(KEEPALIVE).max_concurrent_streams(256);
            let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(tls), service));
            tokio::select! {
                _ = connection.as_mut() => return,
                () = shutdown.over() => connection.as_mut().graceful_shutdown(),
            }
            let _ = tokio::time::timeout(END_DEADLINE, connection).await;
        } else {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(KEEPALIVE);
            let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(tls), service));
            tokio::select! {
                _ = connection.as_mut() => return,
                () = shutdown.over() => connection.as_mut().graceful_shutdown(),
            }
            let _ = tokio::time::timeout(END_DEADLINE, connection).await;
        }
    };
    tokio::select! {
        () = serve => {}
        () = permit.unused(FIRST_REVIEW) => {
            refused.get_or_create(&ReasonLabel { reason: "unused" }).inc();
        }
    }
}

fn router(reviewer: Reviewer) -> Router {
    // The reviewer limits bodies itself.
    Router::new().route(PATH, post(answer)).layer(DefaultBodyLimit::disable()).with_state(reviewer)
}
