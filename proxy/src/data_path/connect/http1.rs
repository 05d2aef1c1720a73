//! HTTP/1 connections to one address, each carrying one request at a time and kept for the next.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;

use crate::{
    contract::reason::Reason,
    data_path::{
        buffer::body::MessageBody,
        connect::dial,
        failure::Failure,
        limits::messages::{MAX_HEAD, MAX_HEADERS},
    },
};

/// How long an idle connection is kept: shorter than applications keep theirs (5 s is common), so that they hardly ever close first.
const IDLE: Duration = Duration::from_secs(3);
/// From this idle time on the application may be about to close: a request is then prepared to be sent again.
const STALE: Duration = Duration::from_millis(10);
/// Requests in a row that kept connections carried, until which every one is prepared so: some applications close without a word.
const TRUSTED: u32 = 64;
/// Idle connections kept.
const MAX_IDLE: usize = 256;

/// See the module.
pub(crate) struct Pool1 {
    to: SocketAddr,
    idle: RefCell<Vec<Idle>>,
    open: Rc<Cell<usize>>,
    /// Connections at most.
    most: usize,
    /// Requests in a row that kept connections carried, up to [`TRUSTED`].
    good: Cell<u32>,
}

/// A connection taken from the pool; it is closed unless it is given back.
pub(crate) struct Connection1 {
    pub(crate) send: SendRequest<MessageBody>,
    /// Whether it carried a request before.
    pub(crate) reused: bool,
    /// Whether it may well break under the next request.
    pub(crate) may_break: bool,
    counted: Counted,
}

struct Idle {
    send: SendRequest<MessageBody>,
    counted: Counted,
    since: Instant,
}

/// Counts an open connection.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Pool1 {
    pub(crate) fn new(to: SocketAddr, most: usize) -> Rc<Self> {
        Rc::new(Self { to, idle: RefCell::default(), open: Rc::default(), most, good: Cell::new(0) })
    }

    /// The connection that was used last, or a new one if `fresh` is wanted or none is ready.
    pub(crate) async fn take(&self, fresh: bool) -> Result<Connection1, Failure> {
        if !fresh && let Some(idle) = self.pop() {
            let may_break = self.good.get() < TRUSTED || idle.since.elapsed() > STALE;
            return Ok(Connection1 { send: idle.send, reused: true, may_break, counted: idle.counted });
        }
        // Rare, and large: kept out of every request's future.
        Box::pin(self.connect()).await
    }

    /// Notes how a kept connection fared.
    pub(crate) fn note_reuse(&self, whole: bool) {
        self.good.set(if whole { (self.good.get() + 1).min(TRUSTED) } else { 0 });
    }

    async fn connect(&self) -> Result<Connection1, Failure> {
        if self.open.get() >= self.most {
            let detail = format!("{} has {} connections that all carry a request", self.to, self.most);
            return Err(Failure::new(Reason::Overloaded, detail));
        }
        let counted = Counted::new(&self.open);
        let stream = dial::connect(self.to).await?;
        let (send, connection) = Builder::new()
            .max_buf_size(MAX_HEAD * 4)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| Failure::new(Reason::ConnectFailed, format!("{}: {e}", self.to)))?;
        tokio::task::spawn_local(async move {
            // How it ended is told to the request that it carried.
            let _ = connection.with_upgrades().await;
        });
        Ok(Connection1 { send, reused: false, may_break: false, counted })
    }

    /// The last one that takes a request at once: one whose upload outlived its answer makes nobody wait.
    fn pop(&self) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let last = idle.iter().rposition(|i| i.send.is_ready() || i.send.is_closed())?;
            let found = idle.remove(last);
            if !found.send.is_closed() {
                return Some(found);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(crate) fn give_back(&self, connection: Connection1) {
        let mut idle = self.idle.borrow_mut();
        if !connection.send.is_closed() && idle.len() < MAX_IDLE {
            idle.push(Idle { send: connection.send, counted: connection.counted, since: Instant::now() });
        }
    }

    /// Closes what was idle for long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|idle| !idle.send.is_closed() && now.duration_since(idle.since) < IDLE);
    }

    /// Closes everything that is idle.
    pub(crate) fn close(&self) {
        self.idle.borrow_mut().clear();
    }
}
