//! An upgrade that a client of HTTP/1.1 asks for, such as a WebSocket (RFC 9110, section 7.8). It travels to another proxy as extended
//! CONNECT (RFC 8441).

use std::{rc::Rc, time::Instant};

use bytes::Bytes;
use h2::{RecvStream, SendStream, ext::Protocol};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, UPGRADE},
    request::Parts,
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;

use crate::{
    contract::{reason::Reason, tunnel::App},
    data_path::{
        buffer::body::MessageBody,
        connect::endpoint::Candidate,
        failure::Failure,
        http::{
            connection::ConnectionContext,
            headers::{self, UPGRADE_METHOD, UPGRADED},
            reply::refused,
            response_body::{Guard, Lease, ResponseBody},
            upgrade::application::to_application,
        },
        observe::request::{InFlight, answered},
        route::{
            attempts::Attempts,
            retry::{FailedAttempt, refused_by_proxy},
        },
        tunnel::copy::{copy_bidirectional, copy_http2},
    },
};

/// An upgrade that a client of HTTP/1.1 asked for with a request that has no body.
pub(crate) async fn switch(
    context: Rc<ConnectionContext>,
    mut request: Request<Incoming>,
    token: HeaderValue,
    started: Instant,
) -> Response<ResponseBody> {
    let client = hyper::upgrade::on(&mut request);
    let (mut head, _) = request.into_parts();
    headers::strip(&mut head.headers);
    headers::strip_own(&mut head.headers);
    // What follows is no body, neither of the request nor of its answer.
    head.headers.remove(CONTENT_LENGTH);
    let answered = asked(&context, head, &token, client, started).await;
    answered.unwrap_or_else(|failure| refused(&context, &failure, false))
}

/// The answer of the first endpoint that can be reached.
async fn asked(
    context: &Rc<ConnectionContext>,
    mut head: Parts,
    token: &HeaderValue,
    client: OnUpgrade,
    started: Instant,
) -> Result<Response<ResponseBody>, Failure> {
    let name = token.to_str().map_err(|_| Failure::new(Reason::BadRequest, "the upgrade's name is no text"))?;
    let mut attempts = Attempts::default();
    let mut began = started;
    loop {
        let candidate = context.route.pick(&attempts)?;
        let mut load = InFlight::new(Rc::clone(&candidate));
        let outcome = if candidate.endpoint.key.identity.is_some() {
            to_proxy(&candidate, head, name, started).await
        } else {
            let asked = to_application(&candidate, head, token, started).await;
            asked.map(|(response, far)| (response, far.map(Far::Application)))
        };
        load.finish();
        match outcome {
            Ok((mut response, far)) => {
                answered(&candidate, response.status(), began);
                if let Some(far) = far {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
                    response.headers_mut().entry(UPGRADE).or_insert(token.clone());
                    forward(Rc::clone(context), client, far, load);
                }
                return Ok(response);
            }
            Err(failed) => {
                head = failed.retry(&mut attempts, &context.route, &candidate, began)?.into_parts().0;
                began = Instant::now();
            }
        }
    }
}

/// The far end of a connection that switched.
enum Far {
    Proxy { into: SendStream<Bytes>, from: RecvStream, guard: Guard },
    Application(OnUpgrade),
}

type Asked = Result<(Response<ResponseBody>, Option<Far>), FailedAttempt>;

async fn to_proxy(candidate: &Rc<Candidate>, mut head: Parts, name: &str, started: Instant) -> Asked {
    let replay = Box::new(head.clone());
    let stream = match candidate.endpoint.stream(App::Http1).await {
        Ok(stream) => stream,
        Err(failure) => {
            return Err(FailedAttempt::undelivered(
                failure,
                Some(Box::new(Request::from_parts(*replay, MessageBody::empty()))),
            ));
        }
    };
    if head.method != Method::GET
        && let Ok(method) = HeaderValue::from_str(head.method.as_str())
    {
        head.headers.insert(UPGRADE_METHOD, method);
    }
    head.extensions.insert(Protocol::from(name));
    head.method = Method::CONNECT;
    head.version = Version::HTTP_11;
    let (answer, into) = match stream.send(Request::from_parts(head, ()), false) {
        Ok(sent) => sent,
        Err(e) => return Err(FailedAttempt::stream_lost(candidate, &e, Some(replay))),
    };
    let mut response = match answer.await {
        Ok(response) => response,
        Err(e) => return Err(FailedAttempt::stream_lost(candidate, &e, Some(replay))),
    };
    if let Some(reason) = refused_by_proxy(candidate, &response, false)
        && reason != Reason::ConnectionLost
    {
        return Err(FailedAttempt::refused(candidate, reason, Some(replay)));
    }
    *response.version_mut() = Version::HTTP_11;
    let switched = response.headers_mut().remove(UPGRADED).is_some();
    let guard = Guard::new(Rc::clone(candidate), started, Lease::Stream { _stream: stream });
    let (mut head, from) = response.into_parts();
    if !switched {
        return Ok((Response::from_parts(head, ResponseBody::guarded(MessageBody::h2(from), guard)), None));
    }
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    Ok((Response::from_parts(head, ResponseBody::empty()), Some(Far::Proxy { into, from, guard })))
}

/// Copies between a client and the far end that switched, once both have.
fn forward(context: Rc<ConnectionContext>, client: OnUpgrade, far: Far, load: InFlight<Rc<Candidate>>) {
    // The connection it came by has ended as one of HTTP; with the context it keeps its permit, and a drain waits for it.
    tokio::task::spawn_local(async move {
        let (metrics, direction, drain) = (&context.reporter.metrics, context.direction, context.drain.watch());
        match far {
            Far::Proxy { into, from, guard } => {
                if let Ok(io) = client.await {
                    copy_http2(TokioIo::new(io), into, from, metrics, direction, drain).await;
                }
                drop(guard);
            }
            Far::Application(application) => {
                if let (Ok(client), Ok(application)) = (client.await, application.await) {
                    let flow = metrics.flow(direction);
                    copy_bidirectional(TokioIo::new(client), TokioIo::new(application), flow, drain).await;
                }
            }
        }
        drop(load);
    });
}
