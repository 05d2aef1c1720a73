//! The body of a request or response, wherever it comes from.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{expect::Gate, windows::Held};
use crate::data_path::{
    connect::{
        endpoint::Candidate,
        http1::{Connection1, Pool1},
        http2::Stream2,
    },
    http::server::http1::idle::Carried,
};

/// A body and what is to be done when it ends.
pub(crate) struct Payload {
    kind: Kind,
    /// Dropped with the body: the request is over then.
    guard: Option<Guard>,
    /// The connection that the body comes from or goes to carries it for so long.
    carried: Option<Carried>,
}

enum Kind {
    Empty,
    /// Not to be asked for before the gate opens.
    Held {
        opened: Pin<Box<dyn Future<Output = ()>>>,
        body: Incoming,
    },
    Once(Bytes),
    Hyper(Incoming),
    /// With what of it the next hop has not taken.
    H2(h2::RecvStream, Option<Held>),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("HTTP/1 body: {0}")]
    Hyper(#[from] hyper::Error),
    #[error("HTTP/2 body: {0}")]
    H2(#[from] h2::Error),
    #[error("the client ended its side in the middle of the body")]
    Cut,
}

/// What a request holds until its answer has ended.
pub(crate) struct Guard {
    candidate: Rc<Candidate>,
    started: Instant,
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
        Self { candidate, started, lease }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.candidate.series.took(self.started.elapsed());
        if let Lease::Whole { pool, connection, ended: true } = &mut self.lease
            && let Some(connection) = connection.take()
        {
            pool.give_back(connection);
        }
    }
}

impl Payload {
    pub(crate) fn empty() -> Self {
        Self { kind: Kind::Empty, guard: None, carried: None }
    }

    pub(crate) fn once(bytes: Bytes) -> Self {
        Self { kind: Kind::Once(bytes), guard: None, carried: None }
    }

    pub(crate) fn hyper(body: Incoming) -> Self {
        let kind = if body.is_end_stream() { Kind::Empty } else { Kind::Hyper(body) };
        Self { kind, guard: None, carried: None }
    }

    /// A body that is asked for only when the gate opens.
    pub(crate) fn held(body: Incoming, gate: Gate) -> Self {
        Self { kind: Kind::Held { opened: Box::pin(gate.opened()), body }, guard: None, carried: None }
    }

    pub(crate) fn h2(body: h2::RecvStream) -> Self {
        let kind = if body.is_end_stream() { Kind::Empty } else { Kind::H2(body, Some(Held::new())) };
        Self { kind, guard: None, carried: None }
    }

    /// Tells the connection that the body belongs to when it is over.
    pub(crate) fn carried(mut self, carried: Carried) -> Self {
        self.carried = Some(carried);
        self
    }

    /// Ties `guard` to the body; at once to its end if there is none.
    pub(crate) fn guarded(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self.note_end();
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::Empty)
    }

    /// Tells the guard when the body was read to its end.
    fn note_end(&mut self) {
        if let Some(Guard { lease: Lease::Whole { ended, .. }, .. }) = &mut self.guard {
            *ended |= match &self.kind {
                Kind::Empty => true,
                Kind::Hyper(body) => body.is_end_stream(),
                Kind::Once(_) | Kind::H2(..) | Kind::Held { .. } => false,
            };
        }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Kind::Held { opened, .. } = &mut this.kind {
            ready!(opened.as_mut().poll(cx));
            if let Kind::Held { body, .. } = std::mem::replace(&mut this.kind, Kind::Empty) {
                this.kind = Kind::Hyper(body);
            }
        }
        let frame = match &mut this.kind {
            // Opened above.
            Kind::Empty | Kind::Held { .. } => None,
            Kind::Once(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Some(Ok(Frame::data(bytes)))
            }
            Kind::Hyper(body) => match (Pin::new(body).poll_frame(cx), &this.carried) {
                (Poll::Pending, Some(carried)) if carried.is_cut(cx) => Some(Err(BodyError::Cut)),
                (Poll::Pending, _) => return Poll::Pending,
                (Poll::Ready(None), _) => {
                    this.kind = Kind::Empty;
                    None
                }
                (Poll::Ready(Some(frame)), carried) => {
                    if let Some(carried) = carried {
                        carried.progress();
                    }
                    Some(frame.map_err(BodyError::from))
                }
            },
            Kind::H2(body, held) => {
                // Whoever asks for more has taken what there was.
                *held = None;
                let frame = ready!(poll_h2(body, cx));
                if frame.is_none() {
                    this.kind = Kind::Empty;
                } else if !body.is_end_stream() {
                    *held = Some(Held::new());
                }
                frame
            }
        };
        this.note_end();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Once(_) => false,
            Kind::Hyper(body) | Kind::Held { body, .. } => body.is_end_stream(),
            Kind::H2(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Once(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Hyper(body) | Kind::Held { body, .. } => body.size_hint(),
            Kind::H2(..) => SizeHint::default(),
        }
    }
}

fn poll_h2(body: &mut h2::RecvStream, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match ready!(body.poll_data(cx)) {
        Some(Ok(data)) => {
            // The next hop has its own flow control: what is handed over counts as consumed.
            let released = body.flow_control().release_capacity(data.len());
            Poll::Ready(Some(released.map(|()| Frame::data(data)).map_err(BodyError::from)))
        }
        // NO_ERROR too: after a whole message (RFC 9113, section 8.1) the codec says that it ended, not that it was reset.
        Some(Err(e)) => Poll::Ready(Some(Err(e.into()))),
        None => match ready!(body.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|t| Ok(Frame::trailers(t)))),
            Err(e) => Poll::Ready(Some(Err(e.into()))),
        },
    }
}
