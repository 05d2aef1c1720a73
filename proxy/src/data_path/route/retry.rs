//! Retries: whether a request that got no answer is sent again.
//!
//! A request that no application has seen is sent again, to another endpoint if there is one: no connection could be made, the
//! endpoint's proxy says that it did not get through, or the far end of a kept connection says that it did not process it (GOAWAY,
//! REFUSED_STREAM; RFC 9113, section 8.7). One that an application may have seen when its connection broke is sent once more if it
//! may be seen twice (RFC 9110, section 9.2.2). Both need the request whole: it is copied beforehand if it has no body and the
//! endpoint is not proven reliable, which a busy one is. A client of HTTP/2 whose request cannot be sent again is told that it may do so.

use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode, request::Parts};

use crate::{
    contract::reason::Reason,
    data_path::{
        buffer::body::MessageBody,
        connect::endpoint::Candidate,
        failure::{Failure, REASON},
        route::{attempts::Attempts, request::Route},
    },
};

/// Endpoints that one request is sent to at most.
const MAX_ATTEMPTS: usize = 3;

/// A request that got no answer.
pub(crate) struct FailedAttempt {
    pub(crate) failure: Failure,
    /// The request, if it may be sent again and is still whole.
    request: Option<Box<Request<MessageBody>>>,
    fault: Fault,
    /// No application has seen it.
    is_unseen: bool,
}

/// What a request without an answer tells of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It cannot be reached: it is ejected.
    Endpoint,
    /// A connection ended; another one may do.
    Connection,
    /// Nothing: a bound of this proxy is reached there.
    Overload,
    /// Nothing: it gave an answer, or who asked broke off.
    None,
}

impl FailedAttempt {
    /// It did not get through.
    pub(crate) fn undelivered(failure: Failure, request: Option<Box<Request<MessageBody>>>) -> Self {
        // The pools say so alone; what the endpoint's proxy says is not theirs.
        let fault = if failure.reason == Reason::Overloaded { Fault::Overload } else { Fault::Endpoint };
        Self { failure, request, fault, is_unseen: true }
    }

    /// It may have been seen, and must not be seen twice.
    pub(crate) fn delivered(failure: Failure) -> Self {
        Self { failure, request: None, fault: Fault::Connection, is_unseen: false }
    }

    /// Whoever sent it did not send it to its end.
    pub(crate) fn body_broken(detail: String) -> Self {
        let failure = Failure::new(Reason::BadRequest, detail);
        Self { failure, request: None, fault: Fault::None, is_unseen: false }
    }

    /// The application answered with what cannot be carried.
    pub(crate) fn undecodable(candidate: &Candidate) -> Self {
        let address = candidate.endpoint.key.address;
        let detail =
            format!("the answer of {address} has a transfer coding other than chunked, which would be lost on the way");
        let failure = Failure::new(Reason::BadRequest, detail).with_status(StatusCode::BAD_GATEWAY);
        Self { failure, request: None, fault: Fault::None, is_unseen: false }
    }

    /// An HTTP/2 stream ended without an answer.
    pub(crate) fn stream_lost(candidate: &Candidate, e: &h2::Error, replay: Option<Box<Parts>>) -> Self {
        if e.is_reset() && !e.is_remote() && !e.is_library() {
            return Self::body_broken(format!("the request's body broke off: {e}"));
        }
        let address = candidate.endpoint.key.address;
        let failure = Failure::new(Reason::ConnectionLost, format!("{address} gave no answer: {e}"));
        let is_unseen = e.is_remote() && (e.is_go_away() || e.reason() == Some(h2::Reason::REFUSED_STREAM));
        // A stream that was reset alone was so on purpose.
        let repeatable = is_unseen || !e.is_reset();
        let replay = replay.filter(|head| repeatable && (is_unseen || head.method.is_idempotent()));
        Self { failure, request: replay.map(whole), fault: Fault::Connection, is_unseen }
    }

    /// The endpoint's proxy refused, for `reason`.
    pub(crate) fn refused(candidate: &Candidate, reason: Reason, replay: Option<Box<Parts>>) -> Self {
        let address = candidate.endpoint.key.address;
        let detail = format!("the proxy of {address} did not get through to its application: {}", reason.as_str());
        let failure = Failure::new(reason, detail);
        Self { failure, request: replay.map(whole), fault: Fault::Endpoint, is_unseen: true }
    }
}

fn whole(head: Box<Parts>) -> Box<Request<MessageBody>> {
    Box::new(Request::from_parts(*head, MessageBody::empty()))
}

impl FailedAttempt {
    /// Takes note of an attempt that `began` then; gives the request, to be sent again, or why it failed for good.
    pub(crate) fn retry(
        self,
        attempts: &mut Attempts,
        route: &Route,
        candidate: &Candidate,
        began: Instant,
    ) -> Result<Request<MessageBody>, Failure> {
        let Self { mut failure, request, fault, is_unseen } = self;
        match fault {
            Fault::Endpoint => candidate.endpoint.load.connect_failed(began.elapsed()),
            Fault::Connection if !is_unseen => candidate.endpoint.load.connection_lost(began.elapsed()),
            Fault::Connection | Fault::Overload | Fault::None => {}
        }
        let more = may_retry(attempts, route, candidate, fault);
        let once = is_unseen || !std::mem::replace(&mut attempts.is_seen, true);
        match request {
            Some(request) if more && once => Ok(*request),
            _ => {
                failure.is_retryable = is_unseen && !attempts.is_seen && (more || fault == Fault::Connection);
                route.failed(&failure);
                Err(failure)
            }
        }
    }

    /// Takes note of why a tunnel was not opened, of which nothing was sent yet; gives the failure when it was one attempt too many.
    pub(crate) fn retry_tunnel(
        self,
        attempts: &mut Attempts,
        route: &Route,
        candidate: &Candidate,
    ) -> Result<(), Failure> {
        if self.fault == Fault::Endpoint {
            candidate.endpoint.load.connect_failed(Duration::ZERO);
        }
        if may_retry(attempts, route, candidate, self.fault) { Ok(()) } else { Err(self.failure) }
    }
}

/// Whether another attempt makes sense.
fn may_retry(attempts: &mut Attempts, route: &Route, candidate: &Candidate, fault: Fault) -> bool {
    attempts.failed.add(&candidate.endpoint);
    // An endpoint that is full or somebody else is not made better by asking another one's bound.
    attempts.failed.len() < MAX_ATTEMPTS && (fault == Fault::Connection || route.has_other(attempts))
}

/// Why the endpoint's proxy answered in its application's stead, and no application has seen the request.
pub(crate) fn refused_by_proxy<B>(candidate: &Candidate, response: &Response<B>, ended: bool) -> Option<Reason> {
    // To gRPC it is told in trailers alone.
    if candidate.endpoint.key.identity.is_none() || !(ended || response.status().is_server_error()) {
        return None;
    }
    let said = response.headers().get(REASON)?;
    [Reason::ConnectFailed, Reason::Overloaded, Reason::ConnectionLost].into_iter().find(|r| said == r.as_str())
}
