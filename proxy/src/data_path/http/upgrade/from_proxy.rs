//! A CONNECT from another proxy: an upgrade that the application of this pod is asked for (RFC 8441), or opaque bytes for it.

use std::{rc::Rc, sync::atomic::Ordering::Relaxed, time::Instant};

use bytes::Bytes;
use h2::{RecvStream, ext::Protocol, server::SendResponse};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, UPGRADE},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::{
    contract::{reason::Reason, tunnel::App},
    data_path::{
        buffer::body::MessageBody,
        connect::{dial, socket::reset_on_close},
        failure::Failure,
        http::{
            connection::ConnectionContext,
            exchange::exchange,
            headers::{self, UPGRADE_METHOD, UPGRADED},
            local_reply::local_reply,
            reply::{refused, reply, send, unless_reset},
            response_body::ResponseBody,
            upgrade::application::to_application,
        },
        observe::request::InFlight,
        route::{attempts::Attempts, retry::FailedAttempt},
        tunnel::copy::copy_http2,
    },
};

/// A CONNECT from another proxy: an upgrade, or opaque bytes.
pub(crate) async fn tunnel(
    context: Rc<ConnectionContext>,
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
            return accept_tunnel(&context, request.into_body(), respond).await;
        }
        None => Some(Err(Failure::new(Reason::BadRequest, "a CONNECT does not belong on a connection for HTTP/1"))),
    };
    match answered {
        None => {}
        Some(Err(failure)) => {
            let response = refused(&context, &failure, false);
            send(response, respond).await;
        }
        Some(Ok(Upgraded::Refused(response))) => send(response, respond).await,
        Some(Ok(Upgraded::Switched { response, application, from })) => {
            let (head, guard) = response.into_parts();
            if let Ok(into) = respond.send_response(Response::from_parts(head, ()), false)
                && let Ok(io) = application.await
            {
                copy_http2(
                    TokioIo::new(io),
                    into,
                    from,
                    &context.reporter.metrics,
                    context.direction,
                    context.drain.watch(),
                )
                .await;
            }
            drop(guard);
        }
    }
}

enum Upgraded {
    /// The application answered without switching.
    Refused(Response<ResponseBody>),
    Switched {
        response: Response<ResponseBody>,
        application: OnUpgrade,
        from: RecvStream,
    },
}

/// Asks the application of this pod to switch.
async fn upgrade_here(
    context: &ConnectionContext,
    request: Request<RecvStream>,
    token: HeaderValue,
    started: Instant,
) -> Result<Upgraded, Failure> {
    let candidate = context.route.pick(&Attempts::default())?;
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
    load.finish();
    let (mut response, far) = answered.map_err(|FailedAttempt { failure, .. }| failure)?;
    candidate.series.answered(response.status());
    let Some(application) = far else { return Ok(Upgraded::Refused(response)) };
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().remove(UPGRADE);
    response.headers_mut().insert(UPGRADED, HeaderValue::from_static("1"));
    Ok(Upgraded::Switched { response, application, from })
}

/// A CONNECT between applications that both speak HTTP/2: relayed as it is.
pub(crate) async fn relay(
    context: Rc<ConnectionContext>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    started: Instant,
) {
    let (head, body) = request.into_parts();
    let exchanged = exchange(&context, head, MessageBody::h2(body), started);
    let Some(answered) = unless_reset(exchanged, &mut respond).await else { return };
    reply(&context, answered, respond, false).await;
}

/// A tunnel from another proxy to the application of this pod.
async fn accept_tunnel(context: &ConnectionContext, from: RecvStream, mut respond: SendResponse<Bytes>) {
    let candidate = match context.route.pick(&Attempts::default()) {
        Ok(candidate) => candidate,
        Err(failure) => {
            context.reporter.refused(context.direction, &failure);
            return send(local_reply(&failure, false), respond).await;
        }
    };
    let connecting = dial::connect(candidate.endpoint.key.address);
    let Some(connected) = unless_reset(connecting, &mut respond).await else { return };
    let mut application = match connected {
        Ok(stream) => stream,
        Err(failure) => {
            context.reporter.refused(context.direction, &failure);
            return send(local_reply(&failure, false), respond).await;
        }
    };
    let Ok(into) = respond.send_response(Response::new(()), false) else { return };
    let _open = context.reporter.metrics.open(context.direction);
    if let Some(count) = &context.tunnels {
        count.fetch_add(1, Relaxed);
    }
    let metrics = &context.reporter.metrics;
    if !copy_http2(&mut application, into, from, metrics, context.direction, context.drain.watch()).await {
        reset_on_close(&application);
    }
}
