//! Requests that got no answer.
//!
//! A request that no application has seen is sent again, to another endpoint if there is one: no connection could be made, the
//! endpoint's proxy says that it did not get through, or the far end of a kept connection says that it did not process it (GOAWAY,
//! REFUSED_STREAM; RFC 9113, section 8.7). One that an application may have seen when its connection broke is sent once more if it
//! may be seen twice (RFC 9110, section 9.2.2). Both need the request whole: it is copied beforehand if it has no body and the
//! endpoint is doubted, which a busy one is not. A client of HTTP/2 whose request cannot be sent again is told that it may do so.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode, request::Parts};

use crate::{
    contract::bootstrap::Reason,
    data_path::{
        buffer::body::Payload,
        connect::endpoint::{Candidate, Endpoint},
        http::{
            exchange::Context,
            local_reply::{Failure, REASON},
        },
    },
};

/// Endpoints tried for one request.
const ATTEMPTS: usize = 3;

/// A request that got no answer.
pub(crate) struct Unsent {
    pub(crate) failure: Failure,
    /// The request, if it may be sent again and is still whole.
    message: Option<Box<Request<Payload>>>,
    fault: Fault,
    /// No application has seen it.
    unseen: bool,
}

/// What a request without an answer tells of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It cannot be reached: avoid it.
    Endpoint,
    /// A connection ended; another one may do.
    Connection,
    /// Nothing: this proxy's own bound is reached there.
    Full,
    /// Nothing: it gave an answer, or who asked broke off.
    None,
}

impl Unsent {
    /// It did not get through.
    pub(crate) fn unseen(failure: Failure, message: Option<Box<Request<Payload>>>) -> Self {
        // The pools say so alone; what the endpoint's proxy says is not theirs.
        let fault = if failure.reason == Reason::Overloaded { Fault::Full } else { Fault::Endpoint };
        Self { failure, message, fault, unseen: true }
    }

    /// It may have been seen, and must not be seen twice.
    pub(crate) fn seen(failure: Failure) -> Self {
        Self { failure, message: None, fault: Fault::Connection, unseen: false }
    }

    /// Whoever sent it did not send it to its end.
    pub(crate) fn broken(detail: String) -> Self {
        let failure = Failure::new(Reason::BadRequest, detail);
        Self { failure, message: None, fault: Fault::None, unseen: false }
    }

    /// The application answered with what cannot be carried.
    pub(crate) fn coded(candidate: &Candidate) -> Self {
        let address = candidate.endpoint.key.address;
        let detail =
            format!("the answer of {address} has a transfer coding other than chunked, which would be lost on the way");
        let failure = Failure::new(Reason::BadRequest, detail).told_with(StatusCode::BAD_GATEWAY);
        Self { failure, message: None, fault: Fault::None, unseen: false }
    }

    /// An HTTP/2 stream ended without an answer.
    pub(crate) fn lost(candidate: &Candidate, e: &h2::Error, spare: Option<Box<Parts>>) -> Self {
        if e.is_reset() && !e.is_remote() && !e.is_library() {
            return Self::broken(format!("the request's body broke off: {e}"));
        }
        let address = candidate.endpoint.key.address;
        let failure = Failure::new(Reason::ConnectionLost, format!("{address} gave no answer: {e}"));
        let unseen = e.is_remote() && (e.is_go_away() || e.reason() == Some(h2::Reason::REFUSED_STREAM));
        // A stream that was reset alone was so on purpose.
        let again = unseen || !e.is_reset();
        let spare = spare.filter(|head| again && (unseen || head.method.is_idempotent()));
        Self { failure, message: spare.map(whole), fault: Fault::Connection, unseen }
    }

    /// The endpoint's proxy refused, for `reason`.
    pub(crate) fn refused(candidate: &Candidate, reason: Reason, spare: Option<Box<Parts>>) -> Self {
        let address = candidate.endpoint.key.address;
        let detail = format!("the proxy of {address} did not get through to its application: {}", reason.as_str());
        let failure = Failure::new(reason, detail);
        Self { failure, message: spare.map(whole), fault: Fault::Endpoint, unseen: true }
    }
}

fn whole(head: Box<Parts>) -> Box<Request<Payload>> {
    Box::new(Request::from_parts(*head, Payload::empty()))
}

/// Endpoints that failed for this request.
#[derive(Default)]
pub(crate) struct Tried {
    failed: Vec<*const Endpoint>,
    /// An application may have seen it.
    seen: bool,
}

impl Tried {
    pub(crate) fn contains(&self, endpoint: &Rc<Endpoint>) -> bool {
        self.failed.contains(&Rc::as_ptr(endpoint))
    }

    /// Whether it is the first attempt.
    pub(crate) fn is_none(&self) -> bool {
        self.failed.is_empty()
    }

    /// Notes why an opaque connection was not opened, of which nothing was sent yet; gives it back when it was one too many.
    pub(crate) fn unopened(&mut self, context: &Context, candidate: &Candidate, unsent: Unsent) -> Result<(), Failure> {
        let Unsent { failure, fault, .. } = unsent;
        if fault == Fault::Endpoint {
            candidate.endpoint.failed(Duration::ZERO);
        }
        if self.has_more(context, candidate, fault) { Ok(()) } else { Err(failure) }
    }

    /// Notes a failure of an attempt that `began` then; gives the request, to be sent again, or the failure.
    pub(crate) fn again(
        &mut self,
        context: &Context,
        candidate: &Candidate,
        unsent: Unsent,
        began: Instant,
    ) -> Result<Request<Payload>, Failure> {
        let Unsent { mut failure, message, fault, unseen } = unsent;
        match fault {
            Fault::Endpoint => candidate.endpoint.failed(began.elapsed()),
            Fault::Connection if !unseen => candidate.endpoint.lost(began.elapsed()),
            Fault::Connection | Fault::Full | Fault::None => {}
        }
        let more = self.has_more(context, candidate, fault);
        let once = unseen || !std::mem::replace(&mut self.seen, true);
        match message {
            Some(message) if more && once => Ok(*message),
            _ => {
                failure.repeat = unseen && !self.seen && (more || fault == Fault::Connection);
                context.route.note(&failure);
                Err(failure)
            }
        }
    }

    /// Whether another attempt makes sense.
    fn has_more(&mut self, context: &Context, candidate: &Candidate, fault: Fault) -> bool {
        self.failed.push(&raw const *candidate.endpoint);
        // An endpoint that is full or somebody else is not made better by asking another one's bound.
        self.failed.len() < ATTEMPTS && (fault == Fault::Connection || context.route.has_other(&context.worker, self))
    }
}

/// Why the endpoint's proxy answered in its application's stead, and no application has seen the request.
pub(crate) fn refused_there<B>(candidate: &Candidate, response: &Response<B>, ended: bool) -> Option<Reason> {
    // To gRPC it is told in trailers alone.
    if candidate.endpoint.key.identity.is_none() || !(ended || response.status().is_server_error()) {
        return None;
    }
    let said = response.headers().get(REASON)?;
    [Reason::ConnectFailed, Reason::Overloaded, Reason::ConnectionLost].into_iter().find(|r| said == r.as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        contract::bootstrap::tunnel::App,
        control::state::State,
        data_path::{
            balance::balancer::Route, connect::endpoint::EndpointKey, drain::Drain, http::exchange::exchange,
            limits::connections::Seat, start::Config, worker::Worker,
        },
        identity::store::Store,
        telemetry::metrics::{Direction, Metrics, PLAINTEXT},
    };

    /// Requests to an endpoint to which so many connections may be open.
    fn context(most: usize) -> (Context, Rc<Endpoint>) {
        let metrics = Metrics::new();
        let series = metrics.http(Direction::Outbound, "a/b", PLAINTEXT);
        let config = Arc::new(Config::for_pod("a/b".into(), 1));
        let worker = Worker::new(config, Store::new(), State::fixed(), metrics, Drain::new());
        // Nobody listens there.
        let key = EndpointKey { address: ([127, 0, 0, 1], 1).into(), identity: None };
        let endpoint = Rc::new(Endpoint::new(key, 1, most));
        let route = Route::Direct(Rc::new(Candidate { endpoint: Rc::clone(&endpoint), series }));
        let (direction, app, service) = (Direction::Outbound, App::Http1, "a/b".into());
        let context = Context { worker, route, direction, app, service, tunnels: None, _seat: Seat::nothing() };
        (context, endpoint)
    }

    #[tokio::test]
    async fn an_endpoint_is_not_to_blame_for_the_bound_of_this_proxy() {
        for (most, reason, avoided) in [(0, Reason::Overloaded, false), (1, Reason::ConnectFailed, true)] {
            let (context, endpoint) = context(most);
            let (head, ()) = Request::new(()).into_parts();
            let Err(failure) = exchange(&context, head, Payload::empty(), Instant::now()).await else {
                panic!("nobody answers");
            };
            assert_eq!(failure.reason, reason, "{failure}");
            let now = Instant::now();
            assert_eq!(endpoint.is_avoided(now), avoided, "{failure}");
            assert_eq!(endpoint.cost(now) >= 1e6, avoided, "{failure}: {}", endpoint.cost(now));
        }
    }
}
