//! Requests that become tunnels: WebSocket and other upgrades of HTTP/1.1 (RFC 9110, section 7.8), which travel between two proxies as
//! extended CONNECT (RFC 8441), and connections with opaque bytes, which travel as CONNECT.

use std::{rc::Rc, time::Instant};

use bytes::Bytes;
use h2::{RecvStream, SendStream, ext::Protocol, server::SendResponse};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, UPGRADE},
    request::Parts,
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;

use super::{
    exchange::{Context, InFlight, send1},
    headers::{self, UPGRADE_METHOD, UPGRADED},
    local_reply::Failure,
    server::{
        http1::refused,
        http2::{self, unless_reset},
    },
};
use crate::{
    contract::bootstrap::{Reason, tunnel::App},
    data_path::{
        buffer::body::{Guard, Lease, Payload},
        connect::endpoint::Candidate,
        route::retry::{Tried, Unsent, refused_there},
        tunnel,
    },
};

/// An upgrade that a client of HTTP/1.1 asked for with a request that has no body.
pub(crate) async fn switch(
    context: Rc<Context>,
    mut request: Request<Incoming>,
    token: HeaderValue,
    started: Instant,
) -> Response<Payload> {
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
    context: &Rc<Context>,
    mut head: Parts,
    token: &HeaderValue,
    client: OnUpgrade,
    started: Instant,
) -> Result<Response<Payload>, Failure> {
    let name = token.to_str().map_err(|_| Failure::new(Reason::BadRequest, "the upgrade's name is no text"))?;
    let mut tried = Tried::default();
    let mut began = started;
    loop {
        let candidate = context.route.pick(&context.worker, &tried)?;
        let mut load = InFlight::new(Rc::clone(&candidate));
        let answered = if candidate.endpoint.key.identity.is_some() {
            to_proxy(context, &candidate, head, name, started).await
        } else {
            to_application(&candidate, head, token, started).await
        };
        load.over();
        match answered {
            Ok((mut response, far)) => {
                let now = Instant::now();
                candidate.endpoint.answered(now.duration_since(began), now);
                candidate.series.answered(response.status());
                if let Some(far) = far {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
                    response.headers_mut().entry(UPGRADE).or_insert(token.clone());
                    carry(Rc::clone(context), client, far, load);
                }
                return Ok(response);
            }
            Err(unsent) => {
                head = tried.again(context, &candidate, unsent, began)?.into_parts().0;
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

type Asked = Result<(Response<Payload>, Option<Far>), Unsent>;

async fn to_proxy(
    context: &Rc<Context>,
    candidate: &Rc<Candidate>,
    mut head: Parts,
    name: &str,
    started: Instant,
) -> Asked {
    let spare = Box::new(head.clone());
    let stream = match candidate.endpoint.h2(App::Http1).stream(&context.worker).await {
        Ok(stream) => stream,
        Err(failure) => {
            return Err(Unsent::unseen(failure, Some(Box::new(Request::from_parts(*spare, Payload::empty())))));
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
        Err(e) => return Err(Unsent::lost(candidate, &e, Some(spare))),
    };
    let mut response = match answer.await {
        Ok(response) => response,
        Err(e) => return Err(Unsent::lost(candidate, &e, Some(spare))),
    };
    if let Some(reason) = refused_there(candidate, &response, false)
        && reason != Reason::ConnectionLost
    {
        return Err(Unsent::refused(candidate, reason, Some(spare)));
    }
    *response.version_mut() = Version::HTTP_11;
    let switched = response.headers_mut().remove(UPGRADED).is_some();
    let guard = Guard::new(Rc::clone(candidate), started, Lease::Stream { _stream: stream });
    let (mut head, from) = response.into_parts();
    if !switched {
        return Ok((Response::from_parts(head, Payload::h2(from).guarded(guard)), None));
    }
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    Ok((Response::from_parts(head, Payload::empty()), Some(Far::Proxy { into, from, guard })))
}

async fn to_application(candidate: &Rc<Candidate>, mut head: Parts, token: &HeaderValue, started: Instant) -> Asked {
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(UPGRADE, token.clone());
    let mut response = send1(candidate, head, Payload::empty(), started).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok((response, None));
    }
    let application = hyper::upgrade::on(&mut response);
    let switched = response.extensions_mut().remove::<Switched>();
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    // What it switched to went with everything else of the hop; the client needs it.
    if let Some(Switched(token)) = switched {
        headers.insert(UPGRADE, token);
    }
    Ok((response, Some(Far::Application(application))))
}

/// Copies between a client and the far end that switched, once both have.
fn carry(context: Rc<Context>, client: OnUpgrade, far: Far, load: InFlight<Rc<Candidate>>) {
    // The connection it came by has ended as one of HTTP; with the context it goes on holding its place, and a drain waits for it.
    tokio::task::spawn_local(async move {
        let (worker, direction) = (&context.worker, context.direction);
        match far {
            Far::Proxy { into, from, guard } => {
                if let Ok(io) = client.await {
                    tunnel::copy_stream(TokioIo::new(io), into, from, worker, direction).await;
                }
                drop(guard);
            }
            Far::Application(application) => {
                if let (Ok(client), Ok(application)) = (client.await, application.await) {
                    tunnel::copy_both(TokioIo::new(client), TokioIo::new(application), worker, direction).await;
                }
            }
        }
        drop(load);
    });
}

/// The protocol that an application switched to.
#[derive(Clone)]
pub(crate) struct Switched(pub(super) HeaderValue);

/// A CONNECT from another proxy: an upgrade, or opaque bytes.
pub(crate) async fn tunnel(
    context: Rc<Context>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    started: Instant,
) {
    let answered = match request.extensions().get::<Protocol>() {
        Some(token) if HeaderValue::from_str(token.as_str()).is_ok_and(|token| headers::is_h2c(&token)) => {
            Some(Err(Failure::new(Reason::BadRequest, "an upgrade to HTTP/2 goes no further than one connection")))
        }
        Some(token) => match HeaderValue::from_str(token.as_str()) {
            Ok(token) => unless_reset(upgrade_here(&context, request, token, started), &mut respond).await,
            Err(_) => Some(Err(Failure::new(Reason::BadRequest, "the upgrade's name is no text"))),
        },
        None if context.app == App::Tcp => {
            return tunnel::accept_tunnel(&context, request.into_body(), respond).await;
        }
        None => Some(Err(Failure::new(Reason::BadRequest, "a CONNECT does not belong on a connection for HTTP/1"))),
    };
    match answered {
        None => {}
        Some(Err(failure)) => {
            let response = refused(&context, &failure, false);
            http2::send(response, respond).await;
        }
        Some(Ok(Upgraded::Refused(response))) => http2::send(response, respond).await,
        Some(Ok(Upgraded::Switched { response, application, from })) => {
            let (head, guard) = response.into_parts();
            if let Ok(into) = respond.send_response(Response::from_parts(head, ()), false)
                && let Ok(io) = application.await
            {
                tunnel::copy_stream(TokioIo::new(io), into, from, &context.worker, context.direction).await;
            }
            drop(guard);
        }
    }
}

enum Upgraded {
    /// The application answered without switching.
    Refused(Response<Payload>),
    Switched {
        response: Response<Payload>,
        application: OnUpgrade,
        from: RecvStream,
    },
}

/// Asks the application of this pod to switch.
async fn upgrade_here(
    context: &Context,
    request: Request<RecvStream>,
    token: HeaderValue,
    started: Instant,
) -> Result<Upgraded, Failure> {
    let candidate = context.route.pick(&context.worker, &Tried::default())?;
    let (mut head, from) = request.into_parts();
    // The application would wait for a body, and take the beginning of somebody else's request for it.
    if head.headers.remove(CONTENT_LENGTH).is_some_and(|length| length != "0") {
        return Err(Failure::new(Reason::BadRequest, "an upgrade has no body"));
    }
    head.method = match head.headers.remove(UPGRADE_METHOD) {
        Some(method) => Method::from_bytes(method.as_bytes())
            .map_err(|_| Failure::new(Reason::BadRequest, "the upgrade's method is none"))?,
        None => Method::GET,
    };
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let mut load = InFlight::new(Rc::clone(&candidate));
    let answered = to_application(&candidate, head, &token, started).await;
    load.over();
    let (mut response, far) = answered.map_err(|Unsent { failure, .. }| failure)?;
    candidate.series.answered(response.status());
    let Some(Far::Application(application)) = far else { return Ok(Upgraded::Refused(response)) };
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().remove(UPGRADE);
    response.headers_mut().insert(UPGRADED, HeaderValue::from_static("1"));
    Ok(Upgraded::Switched { response, application, from })
}

/// A CONNECT between applications that both speak HTTP/2: relayed as it is.
pub(crate) async fn relay(
    context: Rc<Context>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    started: Instant,
) {
    let (head, body) = request.into_parts();
    let exchanged = super::exchange::exchange(&context, head, Payload::h2(body), started);
    let Some(answered) = unless_reset(exchanged, &mut respond).await else { return };
    http2::reply(&context, answered, respond, false).await;
}
