//! Requests that become tunnels: WebSocket and other upgrades of HTTP/1.1 (RFC 9110, section 7.8), which travel between two proxies as
//! extended CONNECT (RFC 8441), and connections with opaque bytes, which travel as CONNECT.

use std::{rc::Rc, time::Instant};

use bytes::Bytes;
use h2::{RecvStream, ext::Protocol, server::SendResponse};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, UPGRADE},
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;

use super::{
    answer::Failure,
    exchange::{Context, Tried, Unsent, send1},
    headers::{self, UPGRADE_METHOD, UPGRADED},
    idle::Carried,
    payload::{Guard, Lease, Payload},
    serve1::refused,
    serve2::{self, unless_reset},
};
use crate::{
    bootstrap::{Reason, tunnel::App},
    pool::Candidate,
    tcp,
};

/// An upgrade that a client of HTTP/1.1 asked for.
pub(super) async fn switch(
    context: Rc<Context>,
    mut request: Request<Incoming>,
    carried: Carried,
    token: HeaderValue,
    started: Instant,
) -> Response<Payload> {
    let client = hyper::upgrade::on(&mut request);
    let picked = context.route.pick(&context.worker, &Tried::default());
    let answered = match picked {
        Ok(candidate) if candidate.endpoint.key.identity.is_some() => {
            to_proxy(&context, &candidate, request, token, client, started).await
        }
        Ok(candidate) => {
            to_application(
                &context,
                &candidate,
                request.map(|body| Payload::hyper(body).carried(carried)),
                token,
                client,
                started,
            )
            .await
        }
        Err(failure) => Err(failure),
    };
    answered.unwrap_or_else(|failure| refused(&context, &failure, false))
}

async fn to_proxy(
    context: &Rc<Context>,
    candidate: &Rc<Candidate>,
    request: Request<Incoming>,
    token: HeaderValue,
    client: OnUpgrade,
    started: Instant,
) -> Result<Response<Payload>, Failure> {
    let stream = candidate.endpoint.h2(App::Http1).stream(&context.worker).await?;
    let (mut head, _) = request.into_parts();
    headers::strip(&mut head.headers);
    if head.method != Method::GET
        && let Ok(method) = HeaderValue::from_str(head.method.as_str())
    {
        head.headers.insert(UPGRADE_METHOD, method);
    }
    let name = token.to_str().map_err(|_| Failure::new(Reason::BadRequest, "the upgrade's name is no text"))?;
    head.extensions.insert(Protocol::from(name));
    head.method = Method::CONNECT;
    head.version = Version::HTTP_11;
    let lost = |e: h2::Error| Failure::new(Reason::ConnectionLost, format!("no answer to the upgrade: {e}"));
    let (answer, into) = stream.send(Request::from_parts(head, ()), false).map_err(lost)?;
    let mut response = answer.await.map_err(lost)?;
    candidate.series.answered(response.status());
    let guard = Guard::new(Rc::clone(candidate), started, Lease::Stream { _stream: stream });
    *response.version_mut() = Version::HTTP_11;
    let switched = response.headers_mut().remove(UPGRADED).is_some();
    let (mut head, body) = response.into_parts();
    if !switched {
        return Ok(Response::from_parts(head, Payload::h2(body).guarded(guard)));
    }
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(UPGRADE, token);
    let context = Rc::clone(context);
    // The connection it came by has ended as one of HTTP; a drain waits for it all the same.
    let open = context.worker.drain.open();
    tokio::task::spawn_local(async move {
        if let Ok(io) = client.await {
            tcp::copy_stream(TokioIo::new(io), into, body, &context.worker, context.direction).await;
        }
        drop((guard, open));
    });
    Ok(Response::from_parts(head, Payload::empty()))
}

async fn to_application(
    context: &Rc<Context>,
    candidate: &Rc<Candidate>,
    request: Request<Payload>,
    token: HeaderValue,
    client: OnUpgrade,
    started: Instant,
) -> Result<Response<Payload>, Failure> {
    let (mut head, body) = request.into_parts();
    headers::strip(&mut head.headers);
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(UPGRADE, token);
    let mut response = send1(candidate, head, body, started).await.map_err(|Unsent { failure, .. }| failure)?;
    candidate.series.answered(response.status());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let application = hyper::upgrade::on(&mut response);
    restore_upgrade(&mut response);
    let context = Rc::clone(context);
    let open = context.worker.drain.open();
    tokio::task::spawn_local(async move {
        if let (Ok(client), Ok(application)) = (client.await, application.await) {
            let (client, application) = (TokioIo::new(client), TokioIo::new(application));
            tcp::copy_both(client, application, &context.worker, context.direction).await;
        }
        drop(open);
    });
    Ok(response)
}

/// `strip` took the names of the new protocol away with everything else of the hop; the client needs them.
fn restore_upgrade(response: &mut Response<Payload>) {
    let token = response.extensions_mut().remove::<Switched>();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(Switched(token)) = token {
        headers.insert(UPGRADE, token);
    }
}

/// The protocol that an application switched to.
#[derive(Clone)]
pub(super) struct Switched(pub(super) HeaderValue);

/// A CONNECT from another proxy: an upgrade, or opaque bytes.
pub(super) async fn tunnel(
    context: Rc<Context>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    started: Instant,
) {
    let answered = match request.extensions().get::<Protocol>() {
        Some(token) => match HeaderValue::from_str(token.as_str()) {
            Ok(token) => unless_reset(upgrade_here(&context, request, token, started), &mut respond).await,
            Err(_) => Some(Err(Failure::new(Reason::BadRequest, "the upgrade's name is no text"))),
        },
        None if context.app == App::Tcp => {
            return tcp::accept_tunnel(&context, request.into_body(), respond).await;
        }
        None => Some(Err(Failure::new(Reason::BadRequest, "a CONNECT does not belong on a connection for HTTP/1"))),
    };
    match answered {
        None => {}
        Some(Err(failure)) => {
            let response = refused(&context, &failure, false);
            serve2::send(response, respond).await;
        }
        Some(Ok(Upgraded::Refused(response))) => serve2::send(response, respond).await,
        Some(Ok(Upgraded::Switched { response, application, from })) => {
            let (head, guard) = response.into_parts();
            if let Ok(into) = respond.send_response(Response::from_parts(head, ()), false)
                && let Ok(io) = application.await
            {
                tcp::copy_stream(TokioIo::new(io), into, from, &context.worker, context.direction).await;
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
    head.method = match head.headers.remove(UPGRADE_METHOD) {
        Some(method) => Method::from_bytes(method.as_bytes())
            .map_err(|_| Failure::new(Reason::BadRequest, "the upgrade's method is none"))?,
        None => Method::GET,
    };
    head.version = Version::HTTP_11;
    head.extensions.clear();
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(UPGRADE, token);
    let mut response =
        send1(&candidate, head, Payload::empty(), started).await.map_err(|Unsent { failure, .. }| failure)?;
    candidate.series.answered(response.status());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Upgraded::Refused(response));
    }
    let application = hyper::upgrade::on(&mut response);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(UPGRADED, HeaderValue::from_static("1"));
    Ok(Upgraded::Switched { response, application, from })
}

/// A CONNECT between applications that both speak HTTP/2: relayed as it is.
pub(super) async fn relay(
    context: Rc<Context>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    started: Instant,
) {
    let (head, body) = request.into_parts();
    let grpc = false;
    let exchanged = super::exchange::exchange(&context, head, Payload::h2(body), started);
    let Some(answered) = unless_reset(exchanged, &mut respond).await else { return };
    let response = answered.unwrap_or_else(|failure| refused(&context, &failure, grpc));
    serve2::send(response, respond).await;
}
