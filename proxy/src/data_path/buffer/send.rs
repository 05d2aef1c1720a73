//! Sends a body into an HTTP/2 stream, as fast as its windows allow and never faster.

use std::{future::poll_fn, pin::Pin, task::Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};

use super::body::BodyError;

/// Sends all of `body` and its trailers, then END_STREAM. Whoever breaks off first is told to the other.
pub(crate) async fn send_body<B>(mut body: B, mut into: SendStream<Bytes>)
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    loop {
        match next(&mut body, &mut into).await {
            Next::Frame(frame) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    if (last || !data.is_empty()) && !send_chunk(&mut into, data, last).await {
                        return;
                    }
                    if last {
                        return;
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let _ = into.send_trailers(trailers);
                        return;
                    }
                }
            },
            Next::End => {
                let _ = into.send_data(Bytes::new(), true);
                return;
            }
            Next::Broken(e) => {
                into.send_reset(reset_reason(&e));
                return;
            }
            // Dropping the body tells the one who sends it.
            Next::Refused => return,
        }
    }
}

enum Next {
    Frame(Frame<Bytes>),
    End,
    Broken(BodyError),
    Refused,
}

/// The next frame, or word that the receiver wants no more.
async fn next<B>(body: &mut B, into: &mut SendStream<Bytes>) -> Next
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Next::Frame(frame)),
        Poll::Ready(Some(Err(e))) => Poll::Ready(Next::Broken(e)),
        Poll::Ready(None) => Poll::Ready(Next::End),
        Poll::Pending => into.poll_reset(cx).map(|_| Next::Refused),
    })
    .await
}

/// Sends one chunk; `false` when the stream is gone.
pub(crate) async fn send_chunk(into: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> bool {
    if data.is_empty() {
        return into.send_data(data, last).is_ok();
    }
    while !data.is_empty() {
        into.reserve_capacity(data.len());
        let mut room = into.capacity();
        while room == 0 {
            match poll_fn(|cx| into.poll_capacity(cx)).await {
                Some(Ok(n)) => room = n,
                Some(Err(_)) | None => return false,
            }
        }
        let piece = data.split_to(room.min(data.len()));
        let end = last && data.is_empty();
        if into.send_data(piece, end).is_err() {
            return false;
        }
    }
    true
}

/// How a body's end is told on: a cancellation stays one.
fn reset_reason(e: &BodyError) -> Reason {
    match e {
        BodyError::H2(e) => e.reason().unwrap_or(Reason::CANCEL),
        BodyError::Hyper(_) | BodyError::Cut => Reason::CANCEL,
    }
}
