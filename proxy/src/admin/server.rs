//! A small HTTP/1.1 server for the admin, metrics and probe ports: few callers, short answers, everything bounded.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// Connections at once on one port; the oldest that is not being answered goes when there is one more.
pub const MAX_CONNECTIONS: usize = 256;
/// How long a client may take to send its header.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// How long a client whose connection is closed after its answer may take to read that.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Largest header, in bytes.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// How long to wait when no connection can be accepted (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is answered.
pub type HttpResponse = Response<Full<Bytes>>;

/// Whether a connection is kept for further requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// It is closed after one response.
    Disabled,
    /// For as many requests as its client likes.
    Enabled,
}

/// Connections of a port, oldest first.
#[derive(Debug, Default)]
struct Connections {
    next: u64,
    open: BTreeMap<u64, Arc<Connection>>,
}

/// One connection.
#[derive(Debug, Default)]
struct Connection {
    /// Its request is being answered: it is not idle.
    in_flight: AtomicBool,
    /// Woken when it has been answered.
    answered: Notify,
    /// It is to be closed in favour of a newer one.
    close: Notify,
}

/// Keeps a connection registered until it is dropped.
struct ConnectionGuard {
    connections: Arc<Mutex<Connections>>,
    number: u64,
    connection: Arc<Connection>,
}

impl ConnectionGuard {
    /// Registers a connection; when there are too many the oldest idle one is closed. Nothing if none is idle.
    fn register(connections: &Arc<Mutex<Connections>>) -> Option<Self> {
        let mut inner = connections.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.open.len() >= MAX_CONNECTIONS {
            let oldest = inner.open.iter().find(|(_, c)| !c.in_flight.load(Relaxed)).map(|(n, _)| *n)?;
            inner.open.remove(&oldest)?.close.notify_one();
        }
        let (number, connection) = (inner.next, Arc::<Connection>::default());
        inner.next += 1;
        inner.open.insert(number, Arc::clone(&connection));
        Some(Self { connections: Arc::clone(connections), number, connection })
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&self.number);
    }
}

/// Serves `listener` until the task is dropped.
pub async fn serve<H, F>(listener: TcpListener, keep_alive: KeepAlive, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = HttpResponse> + Send + 'static,
{
    let connections = Arc::<Mutex<Connections>>::default();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Where everybody is being answered, one more is turned away.
        let Some(guard) = ConnectionGuard::register(&connections) else { continue };
        tokio::spawn(serve_connection(stream, keep_alive, handler.clone(), guard));
    }
}

async fn serve_connection<H, F>(stream: TcpStream, keep_alive: KeepAlive, handler: H, guard: ConnectionGuard)
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = HttpResponse> + Send + 'static,
{
    let connection = Arc::clone(&guard.connection);
    let service = service_fn(move |request| {
        connection.in_flight.store(true, Relaxed);
        let (answer, connection) = (handler(request), Arc::clone(&connection));
        async move {
            let answer = answer.await;
            connection.in_flight.store(false, Relaxed);
            connection.answered.notify_one();
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .keep_alive(keep_alive == KeepAlive::Enabled)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let overdue = async {
        match keep_alive {
            KeepAlive::Disabled => {
                guard.connection.answered.notified().await;
                tokio::time::sleep(READ_DEADLINE).await;
            }
            KeepAlive::Enabled => std::future::pending().await,
        }
    };
    // What goes wrong with a connection is its client's affair.
    tokio::select! {
        _ = served => {}
        () = overdue => {}
        () = guard.connection.close.notified() => {}
    }
}

/// An answer with a type and a body.
#[must_use]
pub fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> HttpResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// An answer of one line.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<String>) -> HttpResponse {
    let mut body = body.into();
    body.push('\n');
    response(status, "text/plain; charset=utf-8", body)
}
