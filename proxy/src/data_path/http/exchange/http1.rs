//! A request on an HTTP/1 connection of its own.

use std::{rc::Rc, time::Instant};

use http::{
    HeaderValue, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
};

use crate::{
    contract::reason::Reason,
    data_path::{
        buffer::{body::MessageBody, expect},
        connect::endpoint::Candidate,
        failure::Failure,
        http::{
            headers,
            response_body::{Guard, Lease, ResponseBody},
        },
        route::retry::FailedAttempt,
    },
};

/// The protocol that an application switched to.
#[derive(Clone)]
pub(crate) struct Switched(pub(crate) HeaderValue);

/// Sends a request on a connection of its own, again on another one if that broke and it may be sent again.
pub(crate) async fn send(
    candidate: &Rc<Candidate>,
    head: Parts,
    body: MessageBody,
    started: Instant,
) -> Result<Response<ResponseBody>, FailedAttempt> {
    let pool = candidate.endpoint.http1();
    let mut request = Request::from_parts(head, body);
    let mut fresh = false;
    loop {
        let mut connection = match pool.take(fresh).await {
            Ok(connection) => connection,
            Err(failure) => return Err(FailedAttempt::undelivered(failure, Some(Box::new(request)))),
        };
        expect::give_on_continue(&mut request);
        frame(&mut request);
        let repeatable = connection.may_break && request.body().is_empty() && request.method().is_idempotent();
        let replay = repeatable.then(|| Box::new(replay(&request)));
        match connection.send.try_send_request(request).await {
            Ok(response) => {
                if connection.reused {
                    pool.note_reuse(true);
                }
                if headers::is_coded(response.headers()) {
                    return Err(FailedAttempt::undecodable(candidate));
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
                return Ok(Response::from_parts(head, ResponseBody::guarded(MessageBody::hyper(body), guard)));
            }
            Err(mut e) => {
                let unsent = e.take_message();
                if e.error().is_user() {
                    return Err(FailedAttempt::body_broken(format!("the request's body broke off: {}", e.error())));
                }
                if connection.reused {
                    pool.note_reuse(false);
                    if let Some(back) = unsent.or(replay.map(|s| *s)) {
                        request = back;
                        fresh = true;
                        continue;
                    }
                }
                let address = candidate.endpoint.key.address;
                let detail = format!("{address} closed the connection before its answer: {}", e.error());
                let failure = Failure::new(Reason::ConnectionLost, detail);
                return Err(FailedAttempt::delivered(failure));
            }
        }
    }
}

/// A body of unknown length is sent in chunks, whatever the method: the codec would leave that of a GET out.
fn frame(request: &mut Request<MessageBody>) {
    if !request.body().is_empty()
        && request.version() == Version::HTTP_11
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// A second copy of a request without a body.
fn replay(request: &Request<MessageBody>) -> Request<MessageBody> {
    let mut copy = Request::new(MessageBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}
