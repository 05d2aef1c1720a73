//! The webhook server: one path, `/inject`, that answers an AdmissionReview. Decides from memory; has no side effects, so dry runs
//! need no care.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Pod;
use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation},
};
use prometheus_client::metrics::{counter::Counter, family::Family};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use super::{
    body::{BodyError, Budget},
    decide::{Decision, decide},
    patch::patch,
    probes::Key,
};
use crate::{
    cluster::lookup,
    reconcile::webhook::serving::Serving,
    runtime::{
        context::Ctx,
        listener::{self, Bounds, ReasonLabel, Server, Slot},
        shutdown::{Shutdown, TaskResult},
    },
};

/// Path that the webhook configuration names.
pub const PATH: &str = "/inject";
/// Largest review, in bytes: the API server takes objects of up to 3 MiB, in JSON.
const MAX_BODY_BYTES: usize = 8 << 20;
/// Bytes of all reviews that are being read or decided. What is made of a review takes a few times as much.
const ALL_BODIES_BYTES: usize = 32 << 20;
/// API servers are few and keep few connections open, each for many reviews; one address may be a node with others on it.
const BOUNDS: Bounds = Bounds { all: 512, address: 64, idle: 256 };
/// Time until the first review on a connection has arrived: an API server opens one because it has a review to send.
const FIRST_REVIEW: Duration = Duration::from_secs(10);
/// How long a review may take; the API server waits for ten seconds.
const REVIEWED: Duration = Duration::from_secs(15);
/// How long open connections may take to end.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// Time in which a client must send a request's head, and at most this long an idle connection is kept by HTTP/2 pings.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Serves admission reviews until shutdown.
///
/// # Errors
/// When the port cannot be opened.
pub async fn serve(ctx: Arc<Ctx>) -> TaskResult {
    let listener = listener::open(ctx.config.webhook_port).await?;
    run(ctx, listener).await;
    Ok(())
}

/// As [`serve`], on an open port.
pub async fn run(ctx: Arc<Ctx>, listener: TcpListener) {
    let refused: Family<ReasonLabel, Counter> = Family::default();
    let reviews: Family<ReasonLabel, Counter> = Family::default();
    ctx.metrics.register(|r| {
        r.register("bowline_inject_reviews", "Admission reviews by outcome", reviews.clone());
        r.register("bowline_webhook_connections_refused", "Connections to the webhook that failed", refused.clone());
    });
    let config = tls(Arc::clone(&ctx.serving));
    let server = Server { bounds: BOUNDS, refused: refused.clone(), shutdown: ctx.shutdown.clone() };
    let shutdown = ctx.shutdown.clone();
    let router = router(Reviewer { ctx, reviews, budget: Budget::new(MAX_BODY_BYTES, ALL_BODIES_BYTES) });
    let choose = move |_: Option<&str>| Some(Arc::clone(&config));
    server
        .run(listener, choose, move |tls, _, slot| {
            connection(tls, slot, router.clone(), refused.clone(), shutdown.clone())
        })
        .await;
}

/// The certificate may change at any time, and is read at every handshake.
fn tls(serving: Arc<Serving>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(Resolver(serving)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

#[derive(Debug)]
struct Resolver(Arc<Serving>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.key()
    }
}

async fn connection(
    tls: TlsStream<TcpStream>,
    slot: Slot,
    router: Router,
    refused: Family<ReasonLabel, Counter>,
    shutdown: Shutdown,
) {
    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let place = slot.clone();
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
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
        () = slot.unused(FIRST_REVIEW) => {
            refused.get_or_create(&ReasonLabel { reason: "unused" }).inc();
        }
    }
}

#[derive(Clone)]
struct Reviewer {
    ctx: Arc<Ctx>,
    reviews: Family<ReasonLabel, Counter>,
    budget: Budget,
}

fn router(reviewer: Reviewer) -> Router {
    // The budget knows the limits.
    Router::new().route(PATH, post(answer)).layer(DefaultBodyLimit::disable()).with_state(reviewer)
}

type Review = AdmissionReview<Pod>;

async fn answer(State(reviewer): State<Reviewer>, Extension(place): Extension<Slot>, body: Body) -> Response {
    let count = |outcome| reviewer.reviews.get_or_create(&ReasonLabel { reason: outcome }).inc();
    let read = reviewer.budget.read(body).await;
    // Not before the whole review is there: whoever sends slowly would hold a place for next to nothing.
    let _in_use = place.in_use();
    // The room is kept until the answer is there.
    let (request, _room) = match read {
        Ok((body, room)) => (parse(&body), Some(room)),
        Err(error @ BodyError::TooLarge { .. }) => (Err(error.to_string()), None),
        Err(error @ (BodyError::GivenUp { .. } | BodyError::Full { .. } | BodyError::Broken(_))) => {
            tracing::warn!(%error, "an admission review is not read");
            count("unread");
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response();
        }
    };
    let (response, outcome) = match request {
        Ok(request) => reviewer.review(&request).await,
        Err(error) => {
            tracing::warn!(error, "an admission review cannot be read");
            (AdmissionResponse::invalid(error), "invalid")
        }
    };
    count(outcome);
    Json::<AdmissionReview<DynamicObject>>(response.into_review()).into_response()
}

fn parse(body: &[u8]) -> Result<AdmissionRequest<Pod>, String> {
    let review: Review = serde_json::from_slice(body).map_err(|e| format!("this is no AdmissionReview: {e}"))?;
    review.try_into().map_err(|_| "the AdmissionReview holds no request".to_owned())
}

impl Reviewer {
    async fn review(&self, request: &AdmissionRequest<Pod>) -> (AdmissionResponse, &'static str) {
        let allowed = AdmissionResponse::from(request);
        let (Operation::Create, Some(pod), Some(namespace)) = (&request.operation, &request.object, &request.namespace)
        else {
            return (allowed, "skipped");
        };
        let who = pod.metadata.name.as_ref().or(pod.metadata.generate_name.as_ref()).map_or("", String::as_str);
        let decision = match lookup::membership(&self.ctx, namespace).await {
            Ok((namespace, membership)) => {
                decide(pod, &namespace, &membership, &self.ctx.config.proxy_image, &Key::random())
            }
            Err(error) => {
                tracing::warn!(namespace, pod = who, %error, "a pod cannot be judged");
                let message =
                    format!("Bowline cannot tell which mesh namespace {namespace} belongs to: {error}; try again");
                return (allowed.deny(message), "error");
            }
        };
        match decision {
            Decision::Skip(reason) => {
                tracing::debug!(namespace, pod = who, reason, "a pod gets no sidecar");
                (allowed, "skipped")
            }
            Decision::Refuse(refusal) => {
                tracing::info!(namespace, pod = who, reason = %refusal, "a pod is refused");
                (allowed.deny(format!("Bowline: {refusal}")), "refused")
            }
            Decision::Inject(plan) => {
                let patch = patch(pod, &plan);
                let outcome = if plan.present { "present" } else { "injected" };
                tracing::debug!(namespace, pod = who, outcome, mesh = plan.sidecar.mesh, "a pod has its sidecar");
                if patch.0.is_empty() {
                    return (allowed, outcome);
                }
                let denied = allowed.clone();
                match allowed.with_patch(patch) {
                    Ok(patched) => (patched, outcome),
                    Err(error) => (denied.deny(format!("Bowline: {error}")), "error"),
                }
            }
        }
    }
}
