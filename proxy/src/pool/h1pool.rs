//! HTTP/1 connections to one address, each carrying one request at a time and kept for the next.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;

use super::dial;
use crate::{
    bootstrap::Reason,
    http::{MAX_HEAD, MAX_HEADERS, answer::Failure, payload::Payload},
};

/// How long an idle connection is kept: shorter than applications keep theirs (5 s is common), so that they hardly ever close first.
const IDLE: Duration = Duration::from_secs(3);
/// From this idle time on the application may be about to close: a request is then prepared to be sent again.
const STALE: Duration = Duration::from_millis(500);
/// Idle connections kept.
const MAX_IDLE: usize = 256;
/// Connections at most.
const MAX_CONNECTIONS: usize = 1024;

/// See the module.
pub(crate) struct Pool1 {
    to: SocketAddr,
    idle: RefCell<Vec<Idle>>,
    open: Rc<Cell<usize>>,
}

/// A connection taken from the pool; it is closed unless it is given back.
pub(crate) struct Connection1 {
    pub(crate) send: SendRequest<Payload>,
    /// Whether it carried a request before.
    pub(crate) reused: bool,
    /// Whether it was idle for so long that it may break.
    pub(crate) stale: bool,
    counted: Counted,
}

struct Idle {
    send: SendRequest<Payload>,
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
    pub(crate) fn new(to: SocketAddr) -> Rc<Self> {
        Rc::new(Self { to, idle: RefCell::default(), open: Rc::default() })
    }

    /// The connection that was used last, or a new one if `fresh` is wanted or none is idle.
    pub(crate) async fn take(&self, fresh: bool) -> Result<Connection1, Failure> {
        while let Some(mut idle) = if fresh { None } else { self.pop() } {
            if idle.send.ready().await.is_ok() {
                let stale = idle.since.elapsed() > STALE;
                return Ok(Connection1 { send: idle.send, reused: true, stale, counted: idle.counted });
            }
        }
        // Rare, and large: kept out of every request's future.
        Box::pin(self.connect()).await
    }

    async fn connect(&self) -> Result<Connection1, Failure> {
        if self.open.get() >= MAX_CONNECTIONS {
            let detail = format!("{} has {MAX_CONNECTIONS} connections that all carry a request", self.to);
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
        Ok(Connection1 { send, reused: false, stale: false, counted })
    }

    fn pop(&self) -> Option<Idle> {
        self.idle.borrow_mut().pop()
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
