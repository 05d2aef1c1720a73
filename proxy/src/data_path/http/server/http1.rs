//! HTTP/1 from an application or, in plain, from outside the mesh: one connection, its requests one after the other.

use std::{convert::Infallible, pin::pin, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header::CONNECTION};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{
    contract::reason::Reason,
    data_path::{
        buffer::{
            activity::{Activity, ActivityGuard},
            body::MessageBody,
            expect::{ContinueSignal, is_expected},
            prefixed::Prefixed,
            trim::Trimming,
        },
        drain::{Phase, Watch},
        failure::Failure,
        http::{
            connection::ConnectionContext,
            exchange::exchange,
            headers,
            local_reply::{is_grpc, local_reply, raw_local_reply},
            reply::refused,
            response_body::ResponseBody,
            upgrade::from_client,
        },
        limits::messages::{HEAD_DEADLINE, MAX_HEAD, MAX_HEADERS},
    },
};

use idle::{CHECK_INTERVAL, Check, IdleCheck};
use socket::TrackedSocket;

mod idle;
mod socket;

/// How long a client that is told to go may take to be told.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // Applications may hold connections open as long as they like; their number is bounded, and slow heads are ended by the idle_check:
    // the codec's own deadline would run while nothing is asked for.
    builder.auto_date_header(false).header_read_timeout(None).max_buf_size(MAX_HEAD * 4).max_header_size(MAX_HEAD);
    builder.max_headers(MAX_HEADERS);
    builder
}

/// Serves until the connection ends or the proxy drains.
pub(crate) async fn serve(
    context: Rc<ConnectionContext>,
    mut io: Prefixed<TcpStream>,
    mut drain: Watch,
    trimming: Rc<Trimming>,
) {
    let (activity, mut idle_check) = (Rc::default(), IdleCheck::default());
    loop {
        let Some(idle) = while_busy(&context, io, &mut drain, &activity, &mut idle_check).await else { return };
        io = idle;
        trimming.connection_closed();
        let asked = async {
            if io.prefix().is_empty() {
                idle_check.reset();
                return io.get_ref().readable().await.is_ok();
            }
            let deadline = idle_check.head_deadline(Instant::now());
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
            () = context.route.withdrawn() => return,
        }
    }
}

/// Serves until the connection ends (`None`) or is idle.
async fn while_busy(
    context: &Rc<ConnectionContext>,
    io: Prefixed<TcpStream>,
    drain: &mut Watch,
    activity: &Rc<Activity>,
    idle_check: &mut IdleCheck,
) -> Option<Prefixed<TcpStream>> {
    let service = {
        let (context, activity) = (Rc::clone(context), Rc::clone(activity));
        service_fn(move |request| answer(Rc::clone(&context), activity.begin(), request))
    };
    let io = TokioIo::new(TrackedSocket::new(io, Arc::clone(&activity.socket)));
    let mut connection = builder().serve_connection(io, service).with_upgrades();
    let mut check = pin!(tokio::time::sleep(CHECK_INTERVAL));
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
            () = check.as_mut() => match idle_check.check(activity, Instant::now()) {
                Check::Again(at) => check.as_mut().reset(at),
                Check::Idle => break false,
                Check::SlowHead => break true,
                Check::HalfClosed => return None,
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
async fn ending(context: &ConnectionContext, drain: &mut Watch) {
    tokio::select! {
        () = drain.reached(Phase::Draining) => {}
        () = context.route.withdrawn() => {}
    }
}

/// Counts what the codec refused by itself.
fn note_end(context: &ConnectionContext, ended: hyper::Result<()>) {
    // How else it ended concerns the client alone, who knows.
    if let Err(e) = ended
        && e.is_parse()
    {
        context.reporter.refused(context.direction, &Failure::new(Reason::BadRequest, e.to_string()));
    }
}

/// Tells a client that did not send its head in time, and closes.
async fn too_slow(context: &ConnectionContext, mut io: Prefixed<TcpStream>) {
    let detail = format!("the head of a request took longer than {} s", HEAD_DEADLINE.as_secs());
    let failure = Failure::new(Reason::BadRequest, detail);
    context.reporter.refused(context.direction, &failure);
    let answer = raw_local_reply("408 Request Timeout", &failure);
    // Who does not read it either has had time enough.
    let _ = tokio::time::timeout(LAST_WORDS, async {
        io.write_all(answer.as_bytes()).await?;
        io.shutdown().await
    })
    .await;
}

async fn answer(
    context: Rc<ConnectionContext>,
    activity: ActivityGuard,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let started = std::time::Instant::now();
    let mut response = respond(&context, &activity, request, started).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        activity.activity().switch();
    } else if context.route.is_withdrawn() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| body.during(activity)))
}

async fn respond(
    context: &Rc<ConnectionContext>,
    activity: &ActivityGuard,
    request: Request<Incoming>,
    started: std::time::Instant,
) -> Response<ResponseBody> {
    if headers::is_coded(request.headers()) {
        let detail = "its body has a transfer coding other than chunked, which would be lost on the way";
        let failure = Failure::new(Reason::BadRequest, detail).with_status(StatusCode::NOT_IMPLEMENTED);
        return refused(context, &failure, false);
    }
    let whole = request.body().is_end_stream();
    if whole && let Some(token) = headers::wanted_upgrade(&request) {
        return Box::pin(from_client::switch(Rc::clone(context), request, token, started)).await;
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
        MessageBody::empty()
    } else if is_expected(&head.headers) {
        let signal = ContinueSignal::default();
        signal.give_in_time();
        head.extensions.insert(signal.clone());
        MessageBody::on_continue(body, signal).during(activity.upload())
    } else {
        MessageBody::hyper(body).during(activity.upload())
    };
    let answered = exchange(context, head, body, started).await;
    answered.unwrap_or_else(|failure| refused(context, &failure, grpc))
}

/// Gives the requests of a connection that goes nowhere a local reply, then closes it.
pub(crate) async fn refuse<S>(failure: Failure, io: S, mut drain: Watch)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let activity = Rc::<Activity>::default();
    let io = TrackedSocket::new(io, Arc::clone(&activity.socket));
    let service = service_fn(move |request: Request<Incoming>| {
        let guard = activity.begin();
        let mut response = local_reply(&failure, is_grpc(request.headers()));
        *response.version_mut() = Version::HTTP_11;
        std::future::ready(Ok::<_, Infallible>(response.map(|body| body.during(guard))))
    });
    let mut builder = builder();
    builder.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::select! {
        _ = connection => {}
        () = drain.reached(Phase::Forced) => {}
    }
}

#[cfg(test)]
mod tests;
