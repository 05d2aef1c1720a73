//! HTTP/2: from other proxies (every stream a request or a tunnel), and with prior knowledge from applications.

use std::{
    future::poll_fn,
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::{Method, Request, Response, StatusCode, Version, request::Parts};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    contract::tunnel::App,
    data_path::{
        buffer::{
            body::MessageBody,
            expect::{ContinueSignal, is_expected},
            windows::{CONNECTION_WINDOW, StreamWindows},
        },
        drain::{Phase, Watch},
        failure::Failure,
        http::{
            connection::ConnectionContext,
            exchange::exchange,
            headers::{self, HTTP10},
            local_reply::{is_grpc, local_reply},
            reply::{reply, send, unless_reset},
            response_body::ResponseBody,
            upgrade::from_proxy,
        },
        limits::messages::{MAX_FRAME, MAX_HEAD, MAX_STREAMS},
    },
    identity::trust::{self, TrustWatch, Untrusted},
};

/// How long a peer that is cut off may take to be told.
const CUT_DEADLINE: Duration = Duration::from_secs(1);

fn builder(windows: &StreamWindows) -> Builder {
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
pub(crate) async fn serve<S>(context: Rc<ConnectionContext>, io: S, mut drain: Watch, mut standing: Option<TrustWatch>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut windows = StreamWindows::new(context.app);
    let Ok(mut connection) = builder(&windows).handshake::<_, Bytes>(io).await else { return };
    let lost = tokio::select! {
        biased;
        () = accept(&context, &mut connection, &mut windows) => return,
        lost = trust::lost(&mut standing) => lost,
        () = context.route.withdrawn() => Untrusted::Dropped,
        () = drain.reached(Phase::Draining) => Untrusted::Dropped,
    };
    connection.graceful_shutdown();
    if lost == Untrusted::Dropped {
        tokio::select! {
            biased;
            () = accept(&context, &mut connection, &mut windows) => return,
            () = trust::revoked(&mut standing) => {}
            () = drain.reached(Phase::Forced) => return,
        }
    }
    tracing::warn!(service = &*context.service, "a connection that stands on a revoked root is cut off");
    if tokio::time::timeout(trust::REVOKED_GRACE, accept(&context, &mut connection, &mut windows)).await.is_ok() {
        return;
    }
    connection.abrupt_shutdown(h2::Reason::CANCEL);
    // All that is left to do is to say so.
    let _ = tokio::time::timeout(CUT_DEADLINE, accept(&context, &mut connection, &mut windows)).await;
}

/// Takes streams until the peer closed or broke off.
async fn accept<S>(context: &Rc<ConnectionContext>, connection: &mut Connection<S, Bytes>, windows: &mut StreamWindows)
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
async fn stream(context: Rc<ConnectionContext>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let started = Instant::now();
    if *request.method() == Method::CONNECT && context.app != App::Http2 {
        return Box::pin(from_proxy::tunnel(context, request, respond, started)).await;
    }
    if *request.method() == Method::CONNECT {
        return Box::pin(from_proxy::relay(context, request, respond, started)).await;
    }
    let (mut head, body) = request.into_parts();
    if context.app == App::Http1 {
        let http10 = head.headers.remove(HTTP10).is_some();
        head.version = if http10 { Version::HTTP_10 } else { Version::HTTP_11 };
    } else {
        headers::strip_own(&mut head.headers);
    }
    let grpc = context.app == App::Http2 && is_grpc(&head.headers);
    let body = MessageBody::h2(body);
    let answered = if body.is_empty() || !is_expected(&head.headers) {
        unless_reset(exchange(&context, head, body, started), &mut respond).await
    } else {
        Box::pin(expecting(&context, head, body, started, &mut respond)).await
    };
    let Some(answered) = answered else { return };
    reply(&context, answered, respond, grpc).await;
}

/// An exchange whose body is sent only when the application asks for it, which is told on.
async fn expecting(
    context: &ConnectionContext,
    mut head: Parts,
    body: MessageBody,
    started: Instant,
    respond: &mut SendResponse<Bytes>,
) -> Option<Result<Response<ResponseBody>, Failure>> {
    let signal = ContinueSignal::default();
    head.extensions.insert(signal.clone());
    let mut exchange = pin!(exchange(context, head, body, started));
    tokio::select! {
        biased;
        answered = unless_reset(exchange.as_mut(), respond) => return answered,
        () = signal.given() => {}
    }
    let mut interim = Response::new(());
    *interim.status_mut() = StatusCode::CONTINUE;
    // If it cannot be told, the client sends its body a little later by itself.
    let _ = respond.send_informational(interim);
    unless_reset(exchange, respond).await
}

/// Gives the requests of a connection that goes nowhere a local reply.
pub(crate) async fn refuse<S>(failure: Failure, io: S, mut drain: Watch)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Ok(mut connection) = builder(&StreamWindows::new(App::Http2)).handshake::<_, Bytes>(io).await else { return };
    let serve = async {
        while let Some(Ok((request, respond))) = connection.accept().await {
            let response = local_reply(&failure, is_grpc(request.headers()));
            tokio::task::spawn_local(send(response, respond));
            connection.graceful_shutdown();
        }
    };
    tokio::select! {
        () = serve => {}
        () = drain.reached(Phase::Forced) => {}
    }
}
