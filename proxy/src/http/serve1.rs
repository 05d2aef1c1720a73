//! HTTP/1 from an application or, in plain, from outside the mesh: one connection, its requests one after the other.

use std::{convert::Infallible, pin::pin, rc::Rc, time::Instant};

use http::{Method, Request, Response, Version};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    MAX_HEAD, MAX_HEADERS,
    answer::{Failure, is_grpc, refusal, status},
    exchange::{Context, exchange},
    expect::{Gate, is_expected},
    headers,
    payload::Payload,
    upgrade,
};
use crate::{
    bootstrap::Reason,
    drain::{Phase, Watch},
    metrics::UNKNOWN,
};

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // Applications may hold connections open as long as they like; their number is bounded.
    builder.auto_date_header(false).header_read_timeout(None).max_buf_size(MAX_HEAD * 4).max_header_size(MAX_HEAD);
    builder.max_headers(MAX_HEADERS);
    builder
}

/// Serves until the connection ends or the proxy drains.
pub(crate) async fn serve<S>(context: Rc<Context>, io: S, mut drain: Watch)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(Rc::clone(&context), request));
    let connection = builder().serve_connection(TokioIo::new(io), service).with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        // How it ended concerns the client alone, who knows.
        _ = connection.as_mut() => return,
        () = drain.reached(Phase::Draining) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        _ = connection => {}
        () = drain.reached(Phase::Forced) => {}
    }
}

async fn answer(context: Rc<Context>, request: Request<Incoming>) -> Result<Response<Payload>, Infallible> {
    let started = Instant::now();
    if let Some(token) = headers::wanted_upgrade(&request) {
        return Ok(Box::pin(upgrade::switch(context, request, token, started)).await);
    }
    let (mut head, body) = request.into_parts();
    if head.method == Method::CONNECT {
        let failure = Failure::new(Reason::BadRequest, "CONNECT must be the first request of a connection");
        return Ok(refused(&context, &failure, false));
    }
    headers::strip(&mut head.headers);
    let grpc = is_grpc(&head.headers);
    let body = if body.is_end_stream() || !is_expected(&head.headers) {
        Payload::hyper(body)
    } else {
        let gate = Gate::default();
        gate.open_in_time();
        head.extensions.insert(gate.clone());
        Payload::held(body, gate)
    };
    let answered = exchange(&context, head, body, started).await;
    Ok(answered.unwrap_or_else(|failure| refused(&context, &failure, grpc)))
}

/// Counts a failure and makes its answer.
pub(super) fn refused(context: &Context, failure: &Failure, grpc: bool) -> Response<Payload> {
    context.worker.refused(context.direction, failure);
    // Nobody answered, so nobody is named.
    let series = context.worker.metrics.http(context.direction, &context.service, UNKNOWN);
    series.answered(status(failure.reason));
    refusal(failure, grpc)
}

/// Answers the requests of a connection that goes nowhere with why, then closes it.
pub(crate) async fn refuse<S>(failure: Failure, io: S, mut drain: Watch)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let mut response = refusal(&failure, is_grpc(request.headers()));
        *response.version_mut() = Version::HTTP_11;
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let connection = builder().keep_alive(false).serve_connection(TokioIo::new(io), service);
    tokio::select! {
        _ = connection => {}
        () = drain.reached(Phase::Forced) => {}
    }
}
