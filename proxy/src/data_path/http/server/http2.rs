//! HTTP/2: from other proxies (every stream a request or a tunnel), and with prior knowledge from applications.

use std::{
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::{Method, Request, Response, StatusCode, Version, request::Parts};
use tokio::io::{AsyncRead, AsyncWrite};

use super::http1::refused;
use crate::{
    contract::bootstrap::tunnel::App,
    data_path::{
        buffer::{
            body::Payload,
            expect::{Gate, is_expected},
            send,
            windows::{CONNECTION_WINDOW, Windows},
        },
        drain::{Phase, Watch},
        http::{
            exchange::{Context, exchange},
            headers::{self, HTTP10},
            local_reply::{Failure, is_grpc, refusal},
            upgrade,
        },
        limits::messages::{MAX_FRAME, MAX_HEAD, MAX_STREAMS},
    },
    identity::trust::{self, Lost, Standing},
};

/// How long a peer that is cut off may take to be told.
const CUT_DEADLINE: Duration = Duration::from_secs(1);

fn builder(windows: &Windows) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(windows.size())
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .max_concurrent_reset_streams(1024)
        // One connection carries the requests of many clients, which may all give up at once.
        .max_pending_accept_reset_streams(256)
        .enable_connect_protocol();
    builder
}

/// Serves until the connection ends, the proxy drains or trust in what the connection stands on is lost; what is in flight
/// finishes, unless it stands on a revoked root.
pub(crate) async fn serve<S>(context: Rc<Context>, io: S, mut drain: Watch, mut standing: Option<Standing>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut windows = Windows::new(context.app);
    let Ok(mut connection) = builder(&windows).handshake::<_, Bytes>(io).await else { return };
    let lost = tokio::select! {
        biased;
        () = accept(&context, &mut connection, &mut windows) => return,
        lost = trust::lost(&mut standing) => lost,
        () = context.route.over(&context.worker) => Lost::Dropped,
        () = drain.reached(Phase::Draining) => Lost::Dropped,
    };
    connection.graceful_shutdown();
    if lost == Lost::Dropped {
        tokio::select! {
            biased;
            () = accept(&context, &mut connection, &mut windows) => return,
            () = trust::revoked(&mut standing) => {}
            () = drain.reached(Phase::Forced) => return,
        }
    }
    tracing::warn!(service = &*context.service, "a connection that stands on a revoked root is cut off");
    if tokio::time::timeout(trust::LAST_WORDS, accept(&context, &mut connection, &mut windows)).await.is_ok() {
        return;
    }
    connection.abrupt_shutdown(h2::Reason::CANCEL);
    // All that is left to do is to say so.
    let _ = tokio::time::timeout(CUT_DEADLINE, accept(&context, &mut connection, &mut windows)).await;
}

/// Takes streams until the peer closed or broke off.
async fn accept<S>(context: &Rc<Context>, connection: &mut Connection<S, Bytes>, windows: &mut Windows)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut next = async || {
        let next = poll_fn(|cx| {
            windows.adapt(|size| connection.set_initial_window_size(size));
            connection.poll_accept(cx)
        });
        next.await
    };
    while let Some(Ok((request, respond))) = next().await {
        tokio::task::spawn_local(stream(Rc::clone(context), request, respond));
    }
}

/// One stream.
async fn stream(context: Rc<Context>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let started = Instant::now();
    if *request.method() == Method::CONNECT && context.app != App::Http2 {
        return Box::pin(upgrade::tunnel(context, request, respond, started)).await;
    }
    if *request.method() == Method::CONNECT {
        return Box::pin(upgrade::relay(context, request, respond, started)).await;
    }
    let (mut head, body) = request.into_parts();
    if context.app == App::Http1 {
        let http10 = head.headers.remove(HTTP10).is_some();
        head.version = if http10 { Version::HTTP_10 } else { Version::HTTP_11 };
    } else {
        headers::strip_own(&mut head.headers);
    }
    let grpc = context.app == App::Http2 && is_grpc(&head.headers);
    let body = Payload::h2(body);
    let answered = if body.is_empty() || !is_expected(&head.headers) {
        unless_reset(exchange(&context, head, body, started), &mut respond).await
    } else {
        Box::pin(expecting(&context, head, body, started, &mut respond)).await
    };
    let Some(answered) = answered else { return };
    reply(&context, answered, respond, grpc).await;
}

/// Sends an answer, or why there is none. A client that may send its request again is told so in a way that it acts upon (RFC 9113,
/// section 8.7).
pub(crate) async fn reply(
    context: &Context,
    answered: Result<Response<Payload>, Failure>,
    mut respond: SendResponse<Bytes>,
    grpc: bool,
) {
    match answered {
        Ok(response) => send(response, respond).await,
        Err(failure) => {
            let response = refused(context, &failure, grpc);
            if failure.repeat {
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            send(response, respond).await;
        }
    }
}

/// An exchange whose body is sent only when the application asks for it, which is told on.
async fn expecting(
    context: &Context,
    mut head: Parts,
    body: Payload,
    started: Instant,
    respond: &mut SendResponse<Bytes>,
) -> Option<Result<Response<Payload>, Failure>> {
    let gate = Gate::default();
    head.extensions.insert(gate.clone());
    let mut exchange = pin!(exchange(context, head, body, started));
    tokio::select! {
        biased;
        answered = unless_reset(exchange.as_mut(), respond) => return answered,
        () = gate.opened() => {}
    }
    let mut interim = Response::new(());
    *interim.status_mut() = StatusCode::CONTINUE;
    // If it cannot be told, the client sends its body a little later by itself.
    let _ = respond.send_informational(interim);
    unless_reset(exchange, respond).await
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
pub(crate) async fn send(response: Response<Payload>, mut respond: SendResponse<Bytes>) {
    let (head, body) = response.into_parts();
    let end = body.is_empty();
    if let Ok(into) = respond.send_response(Response::from_parts(head, ()), end)
        && !end
    {
        send::pump(body, into).await;
    }
}

/// Answers the requests of a connection that goes nowhere with why.
pub(crate) async fn refuse<S>(failure: Failure, io: S, mut drain: Watch)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Ok(mut connection) = builder(&Windows::new(App::Http2)).handshake::<_, Bytes>(io).await else { return };
    let serve = async {
        while let Some(Ok((request, respond))) = connection.accept().await {
            let response = refusal(&failure, is_grpc(request.headers()));
            tokio::task::spawn_local(send(response, respond));
            connection.graceful_shutdown();
        }
    };
    tokio::select! {
        () = serve => {}
        () = drain.reached(Phase::Forced) => {}
    }
}
