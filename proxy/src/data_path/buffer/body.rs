//! The body of a request or response, wherever it comes from.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::data_path::buffer::{activity::ActivityGuard, expect::ContinueSignal, windows::PendingChunk};

/// See the module.
pub(crate) struct MessageBody {
    kind: Kind,
    /// The client's connection has it in progress for so long.
    activity: Option<ActivityGuard>,
}

enum Kind {
    Empty,
    /// Not to be asked for before the application wants it.
    OnContinue {
        given: Pin<Box<dyn Future<Output = ()>>>,
        body: Incoming,
    },
    Once(Bytes),
    Hyper(Incoming),
    /// With what of it the next hop has not taken.
    H2(h2::RecvStream, Option<PendingChunk>),
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

impl MessageBody {
    pub(crate) fn empty() -> Self {
        Self { kind: Kind::Empty, activity: None }
    }

    pub(crate) fn once(bytes: Bytes) -> Self {
        Self { kind: Kind::Once(bytes), activity: None }
    }

    pub(crate) fn hyper(body: Incoming) -> Self {
        let kind = if body.is_end_stream() { Kind::Empty } else { Kind::Hyper(body) };
        Self { kind, activity: None }
    }

    /// A body that is asked for only when the application wants it.
    pub(crate) fn on_continue(body: Incoming, signal: ContinueSignal) -> Self {
        Self { kind: Kind::OnContinue { given: Box::pin(signal.given()), body }, activity: None }
    }

    pub(crate) fn h2(body: h2::RecvStream) -> Self {
        let kind = if body.is_end_stream() { Kind::Empty } else { Kind::H2(body, Some(PendingChunk::new())) };
        Self { kind, activity: None }
    }

    /// Until the body is over, the client's connection has it in progress.
    pub(crate) fn during(mut self, activity: ActivityGuard) -> Self {
        self.activity = Some(activity);
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::Empty)
    }
}

impl Body for MessageBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Kind::OnContinue { given, .. } = &mut this.kind {
            ready!(given.as_mut().poll(cx));
            if let Kind::OnContinue { body, .. } = std::mem::replace(&mut this.kind, Kind::Empty) {
                this.kind = Kind::Hyper(body);
            }
        }
        let frame = match &mut this.kind {
            // Given above.
            Kind::Empty | Kind::OnContinue { .. } => None,
            Kind::Once(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Some(Ok(Frame::data(bytes)))
            }
            Kind::Hyper(body) => match (Pin::new(body).poll_frame(cx), &this.activity) {
                (Poll::Pending, Some(activity)) if activity.is_cut(cx) => Some(Err(BodyError::Cut)),
                (Poll::Pending, _) => return Poll::Pending,
                (Poll::Ready(None), _) => {
                    this.kind = Kind::Empty;
                    None
                }
                (Poll::Ready(Some(frame)), activity) => {
                    if let Some(activity) = activity {
                        activity.progress();
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
                    *held = Some(PendingChunk::new());
                }
                frame
            }
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Once(_) => false,
            Kind::Hyper(body) | Kind::OnContinue { body, .. } => body.is_end_stream(),
            Kind::H2(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Once(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Hyper(body) | Kind::OnContinue { body, .. } => body.size_hint(),
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
