//! HTTP/1 from an application or, in plain, from outside the mesh: one connection, its requests one after the other.

use std::{convert::Infallible, pin::pin, rc::Rc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header::CONNECTION};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use self::idle::{Carried, Clock, HEAD_DEADLINE, LOOK, Look, Traffic};
use crate::{
    contract::bootstrap::Reason,
    data_path::{
        buffer::{
            body::Payload,
            expect::{Gate, is_expected},
        },
        drain::{Phase, Watch},
        forward::detect::Prefixed,
        http::{
            exchange::{Context, exchange},
            headers,
            local_reply::{Failure, is_grpc, plain_answer, refusal},
            upgrade,
        },
        limits::messages::{MAX_HEAD, MAX_HEADERS},
    },
    telemetry::metrics::UNKNOWN,
};

/// How long a client that is told to go may take to be told.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // Applications may hold connections open as long as they like; their number is bounded, and slow heads are ended by the clock:
    // the codec's own deadline would run while nothing is asked for.
    builder.auto_date_header(false).header_read_timeout(None).max_buf_size(MAX_HEAD * 4).max_header_size(MAX_HEAD);
    builder.max_headers(MAX_HEADERS);
    builder
}

/// Serves until the connection ends or the proxy drains.
pub(crate) async fn serve(context: Rc<Context>, mut io: Prefixed<TcpStream>, mut drain: Watch) {
    let (traffic, mut clock) = (Rc::default(), Clock::default());
    loop {
        let Some(idle) = while_busy(&context, io, &mut drain, &traffic, &mut clock).await else { return };
        io = idle;
        context.worker.freed.note();
        let asked = async {
            if io.prefix().is_empty() {
                clock.reset();
                return io.get_ref().readable().await.is_ok();
            }
            let deadline = clock.head_deadline(Instant::now());
            tokio::time::timeout_at(deadline, io.get_ref().readable()).await.is_ok_and(|ready| ready.is_ok())
        };
        tokio::select! {
            biased;
            asked = asked => {
                if !asked {
                    return Box::pin(too_slow(&context, io)).await;
                }
            }
            () = drain.reached(Phase::Draining) => return,
            () = context.route.over(&context.worker) => return,
        }
    }
}

/// Serves until the connection ends (`None`) or is idle.
async fn while_busy(
    context: &Rc<Context>,
    io: Prefixed<TcpStream>,
    drain: &mut Watch,
    traffic: &Rc<Traffic>,
    clock: &mut Clock,
) -> Option<Prefixed<TcpStream>> {
    let service = {
        let (context, traffic) = (Rc::clone(context), Rc::clone(traffic));
        service_fn(move |request| answer(Rc::clone(&context), traffic.begin(), request))
    };
    let io = TokioIo::new(traffic.observe(io));
    let mut connection = builder().serve_connection(io, service).with_upgrades();
    let mut look = pin!(tokio::time::sleep(LOOK));
    let slow = loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                note_end(context, ended);
                return None;
            }
            () = ending(context, drain) => {
                Pin::new(&mut connection).graceful_shutdown();
                tokio::select! {
                    biased;
                    ended = &mut connection => note_end(context, ended),
                    () = drain.reached(Phase::Forced) => {}
                }
                return None;
            }
            () = look.as_mut() => match clock.look(traffic, Instant::now()) {
                Look::Again(at) => look.as_mut().reset(at),
                Look::Idle => break false,
                Look::Slow => break true,
                Look::Gone => return None,
            },
        }
    };
    let parts = connection.into_parts()?;
    let mut io = parts.io.into_inner().into_inner();
    io.put_back(parts.read_buf);
    if slow {
        Box::pin(too_slow(context, io)).await;
        return None;
    }
    Some(io)
}

/// Waits until the connection is to end with what it carries.
async fn ending(context: &Context, drain: &mut Watch) {
    tokio::select! {
        () = drain.reached(Phase::Draining) => {}
        () = context.route.over(&context.worker) => {}
    }
}

/// Counts what the codec refused by itself.
fn note_end(context: &Context, ended: hyper::Result<()>) {
    // How else it ended concerns the client alone, who knows.
    if let Err(e) = ended
        && e.is_parse()
    {
        context.worker.refused(context.direction, &Failure::new(Reason::BadRequest, e.to_string()));
    }
}

/// Tells a client that did not send its head in time, and closes.
async fn too_slow(context: &Context, mut io: Prefixed<TcpStream>) {
    let detail = format!("the head of a request took longer than {} s", HEAD_DEADLINE.as_secs());
    let failure = Failure::new(Reason::BadRequest, detail);
    context.worker.refused(context.direction, &failure);
    let answer = plain_answer("408 Request Timeout", &failure);
    // Who does not read it either has had time enough.
    let _ = tokio::time::timeout(LAST_WORDS, async {
        io.write_all(answer.as_bytes()).await?;
        io.shutdown().await
    })
    .await;
}

async fn answer(
    context: Rc<Context>,
    carried: Carried,
    request: Request<Incoming>,
) -> Result<Response<Payload>, Infallible> {
    let started = std::time::Instant::now();
    let mut response = carry(&context, &carried, request, started).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        carried.traffic().switch();
    } else if context.route.is_over(&context.worker) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| body.carried(carried)))
}

async fn carry(
    context: &Rc<Context>,
    carried: &Carried,
    request: Request<Incoming>,
    started: std::time::Instant,
) -> Response<Payload> {
    if headers::is_coded(request.headers()) {
        let detail = "its body has a transfer coding other than chunked, which would be lost on the way";
        let failure = Failure::new(Reason::BadRequest, detail).told_with(StatusCode::NOT_IMPLEMENTED);
        return refused(context, &failure, false);
    }
    let whole = request.body().is_end_stream();
    if whole && let Some(token) = headers::wanted_upgrade(&request) {
        return Box::pin(upgrade::switch(Rc::clone(context), request, token, started)).await;
    }
    let (mut head, body) = request.into_parts();
    if head.method == Method::CONNECT {
        let failure = Failure::new(Reason::BadRequest, "CONNECT must be the first request of a connection");
        return refused(context, &failure, false);
    }
    headers::strip(&mut head.headers);
    headers::strip_own(&mut head.headers);
    let grpc = is_grpc(&head.headers);
    let body = if whole {
        Payload::empty()
    } else if is_expected(&head.headers) {
        let gate = Gate::default();
        gate.open_in_time();
        head.extensions.insert(gate.clone());
        Payload::held(body, gate).carried(carried.upload())
    } else {
        Payload::hyper(body).carried(carried.upload())
    };
    let answered = exchange(context, head, body, started).await;
    answered.unwrap_or_else(|failure| refused(context, &failure, grpc))
}

/// Counts a failure and makes its answer.
pub(crate) fn refused(context: &Context, failure: &Failure, grpc: bool) -> Response<Payload> {
    context.worker.refused(context.direction, failure);
    // Nobody answered, so nobody is named.
    let series = context.worker.metrics.http(context.direction, &context.service, UNKNOWN);
    series.answered(failure.status());
    refusal(failure, grpc)
}

/// Answers the requests of a connection that goes nowhere with why, then closes it.
pub(crate) async fn refuse<S>(failure: Failure, io: S, mut drain: Watch)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let traffic = Rc::<Traffic>::default();
    let io = traffic.observe(io);
    let service = service_fn(move |request: Request<Incoming>| {
        let carried = traffic.begin();
        let mut response = refusal(&failure, is_grpc(request.headers()));
        *response.version_mut() = Version::HTTP_11;
        std::future::ready(Ok::<_, Infallible>(response.map(|body| body.carried(carried))))
    });
    let mut builder = builder();
    builder.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::select! {
        _ = connection => {}
        () = drain.reached(Phase::Forced) => {}
    }
}

pub(crate) mod idle;
mod socket;
#[cfg(test)]
mod tests;
