//! One request to the endpoint that its route picks, and the head of its answer back; if there is none, see [`again`](crate::data_path::route::retry).

use std::{
    future::poll_fn,
    ops::Deref,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use http::{
    HeaderValue, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
};

use super::{
    headers::{self, HTTP10},
    local_reply::Failure,
    upgrade::Switched,
};
use crate::{
    contract::bootstrap::{Reason, tunnel::App},
    data_path::{
        balance::balancer::Route,
        buffer::{
            body::{Guard, Lease, Payload},
            expect::{self, Gate},
            send,
        },
        connect::{endpoint::Candidate, http2::Stream2},
        limits::connections::Seat,
        route::retry::{Unsent, refused_there},
        worker::Worker,
    },
    telemetry::metrics::Direction,
};

pub(crate) use crate::data_path::route::retry::Tried;

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
    /// What the connection counts as.
    pub(crate) _seat: Seat,
}

/// A request in flight at an endpoint; it counts as given up unless its outcome is noted.
pub(crate) struct InFlight<C: Deref<Target = Candidate>> {
    candidate: C,
    over: bool,
}

impl<C: Deref<Target = Candidate>> InFlight<C> {
    pub(crate) fn new(candidate: C) -> Self {
        candidate.endpoint.began();
        Self { candidate, over: false }
    }

    /// There is an answer, or none will come.
    pub(crate) fn over(&mut self) {
        self.over = true;
    }
}

impl<C: Deref<Target = Candidate>> Drop for InFlight<C> {
    fn drop(&mut self) {
        self.candidate.endpoint.ended();
        if !self.over {
            self.candidate.series.unanswered();
        }
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
    let mut began = started;
    loop {
        let candidate = context.route.pick(&context.worker, &tried)?;
        let mut load = InFlight::new(&*candidate);
        let answered = if candidate.endpoint.key.identity.is_some() || context.app == App::Http2 {
            match candidate.endpoint.h2(context.app).stream(&context.worker).await {
                Ok(stream) => send2(&candidate, stream, head, body, (started, began)).await,
                Err(failure) => Err(Unsent::unseen(failure, Some(Box::new(Request::from_parts(head, body))))),
            }
        } else {
            send1(&candidate, head, body, started).await
        };
        load.over();
        match answered {
            Ok(response) => {
                let now = Instant::now();
                candidate.endpoint.answered(now.duration_since(began), now);
                candidate.series.answered(response.status());
                return Ok(response);
            }
            Err(unsent) => {
                (head, body) = tried.again(context, &candidate, unsent, began)?.into_parts();
                began = Instant::now();
            }
        }
    }
}

async fn send2(
    candidate: &Rc<Candidate>,
    stream: Stream2,
    mut head: Parts,
    body: Payload,
    (started, began): (Instant, Instant),
) -> Result<Response<Payload>, Unsent> {
    let end = body.is_empty();
    let spare = (end && candidate.endpoint.is_doubtful(began)).then(|| Box::new(head.clone()));
    if head.version == Version::HTTP_10 {
        head.headers.insert(HTTP10, HeaderValue::from_static("1"));
    }
    // HTTP/1.1 tells the codec that a request may lack an authority; its Host header travels as it is (RFC 9113, 8.3.1).
    head.version = Version::HTTP_11;
    let gate = if end { None } else { head.extensions.remove::<Gate>() };
    let (mut answer, into) = match stream.send(Request::from_parts(head, ()), end) {
        Ok(sent) => sent,
        Err(e) => return Err(Unsent::lost(candidate, &e, spare)),
    };
    if !end {
        tokio::task::spawn_local(send::pump(body, into));
    }
    if let Some(gate) = gate {
        asked(&mut answer, &gate).await;
    }
    let response = match answer.await {
        Ok(response) => response,
        Err(e) => return Err(Unsent::lost(candidate, &e, spare)),
    };
    match refused_there(candidate, &response, response.body().is_end_stream()) {
        None => {}
        // Somebody has seen it; that it was quick to fail attracts nobody.
        Some(Reason::ConnectionLost) => candidate.endpoint.lost(began.elapsed()),
        Some(reason) => return Err(Unsent::refused(candidate, reason, spare)),
    }
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_11;
    if candidate.endpoint.key.identity.is_none() {
        headers::strip_own(&mut head.headers);
    }
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

pub(crate) async fn send1(
    candidate: &Rc<Candidate>,
    head: Parts,
    body: Payload,
    started: Instant,
) -> Result<Response<Payload>, Unsent> {
    let pool = candidate.endpoint.h1();
    let mut request = Request::from_parts(head, body);
    let mut fresh = false;
    loop {
        let mut connection = match pool.take(fresh).await {
            Ok(connection) => connection,
            Err(failure) => return Err(Unsent::unseen(failure, Some(Box::new(request)))),
        };
        expect::open_on_continue(&mut request);
        frame(&mut request);
        let repeatable = connection.doubtful && request.body().is_empty() && request.method().is_idempotent();
        let spare = repeatable.then(|| Box::new(spare(&request)));
        match connection.send.try_send_request(request).await {
            Ok(response) => {
                if connection.reused {
                    pool.note(true);
                }
                if headers::is_coded(response.headers()) {
                    return Err(Unsent::coded(candidate));
                }
                let (mut head, body) = response.into_parts();
                if head.status == StatusCode::SWITCHING_PROTOCOLS
                    && let Some(token) = head.headers.get(UPGRADE).cloned()
                {
                    head.extensions.insert(Switched(token));
                }
                headers::strip(&mut head.headers);
                headers::strip_own(&mut head.headers);
                let lease = Lease::Whole { pool: Rc::clone(pool), connection: Some(connection), ended: false };
                let guard = Guard::new(Rc::clone(candidate), started, lease);
                return Ok(Response::from_parts(head, Payload::hyper(body).guarded(guard)));
            }
            Err(mut e) => {
                let unsent = e.take_message();
                if e.error().is_user() {
                    return Err(Unsent::broken(format!("the request's body broke off: {}", e.error())));
                }
                if connection.reused {
                    pool.note(false);
                    if let Some(back) = unsent.or(spare.map(|s| *s)) {
                        request = back;
                        fresh = true;
                        continue;
                    }
                }
                let address = candidate.endpoint.key.address;
                let detail = format!("{address} closed the connection before its answer: {}", e.error());
                let failure = Failure::new(Reason::ConnectionLost, detail);
                return Err(Unsent::seen(failure));
            }
        }
    }
}

/// A body of unknown length is sent in chunks, whatever the method: the codec would leave that of a GET out.
fn frame(request: &mut Request<Payload>) {
    if !request.body().is_empty()
        && request.version() == Version::HTTP_11
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
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
        data_path::{
            connect::endpoint::{Endpoint, EndpointKey},
            drain::Drain,
            start::Config,
        },
        identity::store::Store,
        telemetry::metrics::{Metrics, PLAINTEXT},
    };

    #[tokio::test]
    async fn what_is_kept_for_each_request_and_connection_is_small() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let io = crate::data_path::forward::detect::Prefixed::new(bytes::Bytes::new(), stream);
        let metrics = Metrics::new();
        let series = metrics.http(Direction::Outbound, "a/b", PLAINTEXT);
        let config = Arc::new(Config::for_pod("a/b".into(), 1));
        let worker = Worker::new(config, Store::new(), State::fixed(), metrics, Drain::new());
        let key = EndpointKey { address: ([127, 0, 0, 1], 1).into(), identity: None };
        let endpoint = Rc::new(Endpoint::new(key, 1, 1));
        let route = Route::Direct(Rc::new(Candidate { endpoint, series }));
        let drain = worker.drain.watch();
        let service = Rc::from("a/b");
        let context = Rc::new(Context {
            worker,
            route,
            direction: Direction::Outbound,
            app: App::Http1,
            service,
            tunnels: None,
            _seat: Seat::nothing(),
        });
        let (head, ()) = Request::new(()).into_parts();
        let request = exchange(&context, head, Payload::empty(), Instant::now());
        let sizes = [
            ("request", size_of_val(&request), 2048),
            ("body", size_of::<Payload>(), 256),
            (
                "HTTP/1 connection",
                size_of_val(&super::super::server::http1::serve(Rc::clone(&context), io, drain)),
                6144,
            ),
        ];
        for (what, size, most) in sizes {
            assert!(size <= most, "{what}: {size} bytes, at most {most} are meant");
        }
    }
}
