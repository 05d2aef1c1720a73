//! The body of a response, with what its request holds until it has ended.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::data_path::{
    buffer::{
        activity::ActivityGuard,
        body::{BodyError, MessageBody},
    },
    connect::{
        endpoint::Candidate,
        http1::{Connection1, Pool1},
        http2::Stream2,
    },
    observe::request::ResponseTimer,
};

/// See the module.
pub(crate) struct ResponseBody {
    body: MessageBody,
    /// Dropped with the body: the request is over then.
    guard: Option<Guard>,
}

/// What a request holds until its answer has ended.
pub(crate) struct Guard {
    _timer: ResponseTimer,
    lease: Lease,
}

/// The connection that carries a request.
pub(crate) enum Lease {
    /// A stream of a shared connection, counted until the end.
    Stream { _stream: Stream2 },
    /// A connection of its own, given back if the answer was read to its end.
    Whole { pool: Rc<Pool1>, connection: Option<Connection1>, ended: bool },
}

impl Guard {
    pub(crate) fn new(candidate: Rc<Candidate>, started: Instant, lease: Lease) -> Self {
        Self { _timer: ResponseTimer::new(candidate, started), lease }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Lease::Whole { pool, connection, ended: true } = &mut self.lease
            && let Some(connection) = connection.take()
        {
            pool.give_back(connection);
        }
    }
}

impl ResponseBody {
    pub(crate) fn empty() -> Self {
        Self::local(MessageBody::empty())
    }

    /// Of a response that no endpoint gave.
    pub(crate) fn local(body: MessageBody) -> Self {
        Self { body, guard: None }
    }

    /// Of an endpoint's response: `guard` is held until its end, which is known at once if it is empty.
    pub(crate) fn guarded(body: MessageBody, guard: Guard) -> Self {
        let mut response = Self { body, guard: Some(guard) };
        response.note_end();
        response
    }

    /// Until the body is over, the client's connection has it in progress.
    pub(crate) fn during(self, activity: ActivityGuard) -> Self {
        Self { body: self.body.during(activity), ..self }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Tells the guard when the body was read to its end.
    fn note_end(&mut self) {
        if let Some(Guard { lease: Lease::Whole { ended, .. }, .. }) = &mut self.guard {
            *ended |= self.body.is_end_stream();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.note_end();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
