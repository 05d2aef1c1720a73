//! A request on a stream of a shared HTTP/2 connection.

use std::{future::poll_fn, rc::Rc, time::Instant};

use http::{HeaderValue, Request, Response, StatusCode, Version, request::Parts};

use crate::{
    contract::reason::Reason,
    data_path::{
        buffer::{body::MessageBody, expect::ContinueSignal, send::send_body},
        connect::{endpoint::Candidate, http2::Stream2},
        http::{
            headers::{self, HTTP10},
            response_body::{Guard, Lease, ResponseBody},
        },
        route::retry::{FailedAttempt, refused_by_proxy},
    },
};

/// Sends a request on a stream of a shared connection.
pub(super) async fn send(
    candidate: &Rc<Candidate>,
    stream: Stream2,
    mut head: Parts,
    body: MessageBody,
    (started, began): (Instant, Instant),
) -> Result<Response<ResponseBody>, FailedAttempt> {
    let end = body.is_empty();
    let replay = (end && candidate.endpoint.load.is_unproven(began)).then(|| Box::new(head.clone()));
    if head.version == Version::HTTP_10 {
        head.headers.insert(HTTP10, HeaderValue::from_static("1"));
    }
    // HTTP/1.1 tells the codec that a request may lack an authority; its Host header travels as it is (RFC 9113, 8.3.1).
    head.version = Version::HTTP_11;
    let signal = if end { None } else { head.extensions.remove::<ContinueSignal>() };
    let (mut answer, into) = match stream.send(Request::from_parts(head, ()), end) {
        Ok(sent) => sent,
        Err(e) => return Err(FailedAttempt::stream_lost(candidate, &e, replay)),
    };
    if !end {
        tokio::task::spawn_local(send_body(body, into));
    }
    if let Some(signal) = signal {
        asked(&mut answer, &signal).await;
    }
    let response = match answer.await {
        Ok(response) => response,
        Err(e) => return Err(FailedAttempt::stream_lost(candidate, &e, replay)),
    };
    match refused_by_proxy(candidate, &response, response.body().is_end_stream()) {
        None => {}
        // Somebody has seen it; that it was quick to fail attracts nobody.
        Some(Reason::ConnectionLost) => candidate.endpoint.load.connection_lost(began.elapsed()),
        Some(reason) => return Err(FailedAttempt::refused(candidate, reason, replay)),
    }
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_11;
    if candidate.endpoint.key.identity.is_none() {
        headers::strip_own(&mut head.headers);
    }
    let guard = Guard::new(Rc::clone(candidate), started, Lease::Stream { _stream: stream });
    Ok(Response::from_parts(head, ResponseBody::guarded(MessageBody::h2(body), guard)))
}

/// Gives the signal when the far end asks for the body; returns when the final answer is there.
async fn asked(answer: &mut h2::client::ResponseFuture, signal: &ContinueSignal) {
    while let Some(Ok(interim)) = poll_fn(|cx| answer.poll_informational(cx)).await {
        if interim.status() == StatusCode::CONTINUE {
            return signal.give();
        }
    }
}
