//! One request to the endpoint that its route picks, and the head of its answer back.
//!
//! Nothing of a request has been sent while a connection is being made, so a failure there is retried on another endpoint. On a
//! kept HTTP/1 connection that the application closed at the same moment, the request is sent again if the application cannot
//! have seen it or may see it twice (RFC 9110, section 9.2.2).

use std::{
    future::poll_fn,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header::UPGRADE, request::Parts};

use super::{
    answer::Failure,
    expect::{self, Gate},
    headers::{self, HTTP10},
    payload::{Guard, Lease, Payload},
    pump,
    upgrade::Switched,
};
use crate::{
    bootstrap::{Reason, tunnel::App},
    metrics::Direction,
    outbound::balance::Route,
    pool::{Candidate, Stream2},
    worker::Worker,
};

/// Endpoints tried for one request.
pub(crate) const ATTEMPTS: usize = 3;

/// What all requests of a connection share.
pub(crate) struct Context {
    pub(crate) worker: Rc<Worker>,
    pub(crate) route: Route,
    pub(crate) direction: Direction,
    /// What the application at the far end speaks.
    pub(crate) app: App,
    /// `namespace/name` of the service, for metrics.
    pub(crate) service: Rc<str>,
    /// Counts tunnels from other proxies.
    pub(crate) tunnels: Option<Arc<AtomicU64>>,
}

/// A request in flight at an endpoint.
struct InFlight<'a>(&'a Candidate);

impl<'a> InFlight<'a> {
    fn new(candidate: &'a Candidate) -> Self {
        candidate.endpoint.began();
        Self(candidate)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.endpoint.ended();
    }
}

/// Carries one request; hop-by-hop headers are gone already.
pub(crate) async fn exchange(
    context: &Context,
    mut head: Parts,
    mut body: Payload,
    started: Instant,
) -> Result<Response<Payload>, Failure> {
    let mut tried = Tried::default();
    loop {
        let candidate = context.route.pick(&context.worker, &tried)?;
        let _load = InFlight::new(&candidate);
        let response = if candidate.endpoint.key.identity.is_some() || context.app == App::Http2 {
            match candidate.endpoint.h2(context.app).stream(&context.worker).await {
                Ok(stream) => send2(&candidate, stream, head, body, started).await?,
                Err(failure) => {
                    tried.failed(context, &candidate, failure)?;
                    continue;
                }
            }
        } else {
            match send1(&candidate, head, body, started).await {
                Ok(response) => response,
                Err(Unsent { failure, message: Some(message) }) => {
                    tried.failed(context, &candidate, failure)?;
                    (head, body) = message.into_parts();
                    continue;
                }
                Err(Unsent { failure, message: None }) => return Err(failure),
            }
        };
        let now = Instant::now();
        candidate.endpoint.answered(now.duration_since(started), now);
        candidate.series.answered(response.status());
        return Ok(response);
    }
}

/// Endpoints that failed for this request.
#[derive(Default)]
pub(crate) struct Tried {
    failed: Vec<*const crate::pool::Endpoint>,
}

impl Tried {
    pub(crate) fn contains(&self, endpoint: &Rc<crate::pool::Endpoint>) -> bool {
        self.failed.contains(&Rc::as_ptr(endpoint))
    }

    /// Notes a failure; gives it back when it was one too many.
    pub(crate) fn failed(&mut self, context: &Context, candidate: &Candidate, failure: Failure) -> Result<(), Failure> {
        candidate.endpoint.failed();
        self.failed.push(Rc::as_ptr(&candidate.endpoint));
        // An endpoint that is full or somebody else is not made better by asking another one's bound.
        if self.failed.len() >= ATTEMPTS || !context.route.has_other(&context.worker, self) {
            return Err(failure);
        }
        Ok(())
    }
}

async fn send2(
    candidate: &Rc<Candidate>,
    stream: Stream2,
    mut head: Parts,
    body: Payload,
    started: Instant,
) -> Result<Response<Payload>, Failure> {
    if head.version == Version::HTTP_10 {
        head.headers.insert(HTTP10, HeaderValue::from_static("1"));
    }
    // HTTP/1.1 tells the codec that a request may lack an authority; its Host header travels as it is (RFC 9113, 8.3.1).
    head.version = Version::HTTP_11;
    let lost = |e: h2::Error| {
        let address = candidate.endpoint.key.address;
        Failure::new(Reason::ConnectionLost, format!("{address} gave no answer: {e}"))
    };
    let end = body.is_empty();
    let gate = if end { None } else { head.extensions.remove::<Gate>() };
    let (mut answer, into) = stream.send(Request::from_parts(head, ()), end).map_err(lost)?;
    if !end {
        tokio::task::spawn_local(pump::pump(body, into));
    }
    if let Some(gate) = gate {
        asked(&mut answer, &gate).await;
    }
    let (mut head, body) = answer.await.map_err(lost)?.into_parts();
    head.version = Version::HTTP_11;
    let guard = Guard::new(Rc::clone(candidate), started, Lease::Stream { _stream: stream });
    Ok(Response::from_parts(head, Payload::h2(body).guarded(guard)))
}

/// Opens the gate when the far end asks for the body; returns when the final answer is there.
async fn asked(answer: &mut h2::client::ResponseFuture, gate: &Gate) {
    while let Some(Ok(interim)) = poll_fn(|cx| answer.poll_informational(cx)).await {
        if interim.status() == StatusCode::CONTINUE {
            return gate.open();
        }
    }
}

/// A request that was not answered, and the request if it was not sent either.
pub(super) struct Unsent {
    pub(super) failure: Failure,
    pub(super) message: Option<Box<Request<Payload>>>,
}

pub(super) async fn send1(
    candidate: &Rc<Candidate>,
    head: Parts,
    body: Payload,
    started: Instant,
) -> Result<Response<Payload>, Unsent> {
    let pool = candidate.endpoint.h1();
    let mut request = Request::from_parts(head, body);
    expect::open_on_continue(&mut request);
    let mut fresh = false;
    loop {
        let mut connection = match pool.take(fresh).await {
            Ok(connection) => connection,
            Err(failure) => return Err(Unsent { failure, message: Some(Box::new(request)) }),
        };
        let repeatable = request.body().is_empty() && request.method().is_idempotent();
        let spare = (connection.stale && repeatable).then(|| Box::new(spare(&request)));
        match connection.send.try_send_request(request).await {
            Ok(response) => {
                let (mut head, body) = response.into_parts();
                if head.status == StatusCode::SWITCHING_PROTOCOLS
                    && let Some(token) = head.headers.get(UPGRADE).cloned()
                {
                    head.extensions.insert(Switched(token));
                }
                headers::strip(&mut head.headers);
                let lease = Lease::Whole { pool: Rc::clone(pool), connection: Some(connection), ended: false };
                let guard = Guard::new(Rc::clone(candidate), started, lease);
                return Ok(Response::from_parts(head, Payload::hyper(body).guarded(guard)));
            }
            Err(mut e) => {
                let back = if connection.reused { e.take_message().or(spare.map(|s| *s)) } else { None };
                let Some(back) = back else {
                    let address = candidate.endpoint.key.address;
                    let detail = format!("{address} closed the connection before its answer: {}", e.error());
                    return Err(Unsent { failure: Failure::new(Reason::ConnectionLost, detail), message: None });
                };
                request = back;
                fresh = true;
            }
        }
    }
}

/// A second copy of a request without a body.
fn spare(request: &Request<Payload>) -> Request<Payload> {
    let mut copy = Request::new(Payload::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        control::state::State,
        dataplane::Config,
        drain::Drain,
        identity::store::Store,
        metrics::{Metrics, PLAINTEXT},
        pool::{Endpoint, EndpointKey},
    };

    #[tokio::test]
    async fn what_is_kept_for_each_request_and_connection_is_small() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let io = crate::detect::Prefixed::new(bytes::Bytes::new(), stream);
        let metrics = Metrics::new();
        let series = metrics.http(Direction::Outbound, "a/b", PLAINTEXT);
        let config = Arc::new(Config::for_pod("a/b".into(), 1));
        let worker = Worker::new(config, Store::new(), State::fixed(), metrics, Drain::new());
        let key = EndpointKey { address: ([127, 0, 0, 1], 1).into(), identity: None };
        let endpoint = Rc::new(Endpoint::new(key, 1));
        let route = Route::Direct(Rc::new(Candidate { endpoint, series }));
        let drain = worker.drain.watch();
        let service = Rc::from("a/b");
        let context =
            Rc::new(Context { worker, route, direction: Direction::Outbound, app: App::Http1, service, tunnels: None });
        let (head, ()) = Request::new(()).into_parts();
        let request = exchange(&context, head, Payload::empty(), Instant::now());
        let sizes = [
            ("request", size_of_val(&request), 2048),
            ("body", size_of::<Payload>(), 256),
            ("HTTP/1 connection", size_of_val(&super::super::serve1::serve(Rc::clone(&context), io, drain)), 6144),
        ];
        for (what, size, most) in sizes {
            assert!(size <= most, "{what}: {size} bytes, at most {most} are meant");
        }
    }
}
