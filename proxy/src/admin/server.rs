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
/// How long a caller may take to send its header.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// How long a caller whose connection is closed after its answer may take to read that.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Largest header, in bytes.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// How long to wait when no connection can be accepted (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is answered.
pub type Answer = Response<Full<Bytes>>;

/// How long a connection is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// For one request.
    One,
    /// For as many as its caller likes.
    Alive,
}

/// Connections of a port, oldest first.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Arc<Caller>>,
}

/// One connection.
#[derive(Debug, Default)]
struct Caller {
    /// Its request is being answered.
    busy: AtomicBool,
    /// It has had an answer.
    answered: Notify,
    /// It is to make room.
    go: Notify,
}

/// A place in the table.
struct Place {
    table: Arc<Mutex<Table>>,
    number: u64,
    caller: Arc<Caller>,
}

impl Place {
    /// The next place; who is oldest loses theirs when there are too many. Nothing if all are being answered.
    fn take(table: &Arc<Mutex<Table>>) -> Option<Self> {
        let mut inner = table.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.open.len() >= MAX_CONNECTIONS {
            let oldest = inner.open.iter().find(|(_, c)| !c.busy.load(Relaxed)).map(|(n, _)| *n)?;
            inner.open.remove(&oldest)?.go.notify_one();
        }
        let (number, caller) = (inner.next, Arc::<Caller>::default());
        inner.next += 1;
        inner.open.insert(number, Arc::clone(&caller));
        Some(Self { table: Arc::clone(table), number, caller })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&self.number);
    }
}

/// Serves `listener` until the task is dropped.
pub async fn serve<H, F>(listener: TcpListener, keep: Keep, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let table = Arc::<Mutex<Table>>::default();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Where everybody is being answered, one more is turned away.
        let Some(place) = Place::take(&table) else { continue };
        tokio::spawn(connection(stream, keep, handler.clone(), place));
    }
}

async fn connection<H, F>(stream: TcpStream, keep: Keep, handler: H, place: Place)
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let caller = Arc::clone(&place.caller);
    let service = service_fn(move |request| {
        caller.busy.store(true, Relaxed);
        let (answer, caller) = (handler(request), Arc::clone(&caller));
        async move {
            let answer = answer.await;
            caller.busy.store(false, Relaxed);
            caller.answered.notify_one();
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .keep_alive(keep == Keep::Alive)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let overdue = async {
        match keep {
            Keep::One => {
                place.caller.answered.notified().await;
                tokio::time::sleep(READ_DEADLINE).await;
            }
            Keep::Alive => std::future::pending().await,
        }
    };
    // What goes wrong with a connection is its caller's affair.
    tokio::select! {
        _ = served => {}
        () = overdue => {}
        () = place.caller.go.notified() => {}
    }
}

/// An answer with a type and a body.
#[must_use]
pub fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// An answer of one line.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    let mut body = body.into();
    body.push('\n');
    answer(status, "text/plain; charset=utf-8", body)
}
