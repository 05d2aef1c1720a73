//! Responses on their way to the client: those of endpoints, and local replies.

use std::{future::poll_fn, pin::pin, task::Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use http::Response;

use crate::data_path::{
    buffer::send::send_body,
    failure::Failure,
    http::{connection::ConnectionContext, local_reply::local_reply, response_body::ResponseBody},
    observe,
};

/// The local reply for a failure, which is counted.
pub(crate) fn refused(context: &ConnectionContext, failure: &Failure, grpc: bool) -> Response<ResponseBody> {
    observe::request::refused(&context.reporter, context.direction, &context.service, failure);
    local_reply(failure, grpc)
}

/// Sends an answer, or why there is none. A client that may send its request again is told so in a way that it acts upon (RFC 9113,
/// section 8.7).
pub(crate) async fn reply(
    context: &ConnectionContext,
    answered: Result<Response<ResponseBody>, Failure>,
    mut respond: SendResponse<Bytes>,
    grpc: bool,
) {
    match answered {
        Ok(response) => send(response, respond).await,
        Err(failure) => {
            let response = refused(context, &failure, grpc);
            if failure.is_retryable {
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            send(response, respond).await;
        }
    }
}

/// The outcome of `work`, or nothing when the peer no longer wants it.
pub(crate) async fn unless_reset<F: Future>(work: F, respond: &mut SendResponse<Bytes>) -> Option<F::Output> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(out) => Poll::Ready(Some(out)),
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    })
    .await
}

/// Sends a whole answer.
pub(crate) async fn send(response: Response<ResponseBody>, mut respond: SendResponse<Bytes>) {
    let (head, body) = response.into_parts();
    let end = body.is_empty();
    if let Ok(into) = respond.send_response(Response::from_parts(head, ()), end)
        && !end
    {
        send_body(body, into).await;
    }
}
