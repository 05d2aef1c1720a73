//! HTTP/2 connections to one endpoint, shared by all requests and tunnels of a worker that go there.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};

use crate::{
    contract::{reason::Reason, spiffe::SpiffeId, tunnel::App},
    data_path::{
        buffer::{
            coalesce::Coalesced,
            windows::{CONNECTION_WINDOW, StreamWindows, TUNNELS},
        },
        connect::{
            dial::{self, Dialer},
            write_first::{self, ReadPause, Waiting},
        },
        failure::Failure,
        limits::messages::{MAX_FRAME, MAX_HEAD},
    },
    identity::trust::{self, TrustWatch, Untrusted},
};

/// Connections to one endpoint at most.
const MAX_CONNECTIONS: usize = 64;
/// Streams on a connection before another one is opened.
const STREAMS: u32 = 128;
/// How long a connection without streams is kept.
const IDLE: Duration = Duration::from_secs(90);
/// How long a new connection is not used while an application has not said how many streams it takes.
const SETTINGS_DEADLINE: Duration = Duration::from_secs(1);
/// Streams that a peer takes while it has not said how many: a number that nobody says.
const UNSAID: usize = usize::MAX - 1;

/// Where a mutual-TLS connection leads.
#[derive(Debug)]
pub(crate) struct Secure {
    pub(crate) sni: ServerName<'static>,
    pub(crate) expected: SpiffeId,
}

/// See the module.
pub(crate) struct Pool2 {
    to: SocketAddr,
    secure: Option<Secure>,
    app: App,
    per_connection: u32,
    connections: RefCell<Vec<Rc<Connection2>>>,
    /// Held while connecting: one handshake serves all who wait.
    connecting: tokio::sync::Mutex<()>,
    /// The last failure to connect, shared with those who waited for the same attempt.
    failed: RefCell<Option<(Instant, Failure)>>,
}

/// One connection.
pub(crate) struct Connection2 {
    send: RefCell<SendRequest<Bytes>>,
    streams: Cell<u32>,
    usable: Cell<bool>,
    used: Cell<Instant>,
    waiting: Waiting,
    /// Told when the peer has said how many streams it takes, or will not any more.
    said: Rc<Notify>,
}

/// A place on a connection, held until the stream is over.
pub(crate) struct Stream2(Rc<Connection2>);

impl Drop for Stream2 {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

impl Stream2 {
    fn take(connection: &Rc<Connection2>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self(Rc::clone(connection))
    }

    /// Sends a request's head; `end` when there is no body.
    pub(crate) fn send(
        &self,
        request: http::Request<()>,
        end: bool,
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        self.0.used.set(Instant::now());
        self.0.waiting.note();
        self.0.send.borrow_mut().send_request(request, end)
    }
}

impl Connection2 {
    /// Whether it takes one more stream: of those that are meant for a connection, and of those that the peer takes. A peer that takes
    /// none for the moment is given one to wait.
    fn has_room(&self, most: u32) -> bool {
        let streams = self.streams.get();
        self.usable.get() && streams < most && (streams as usize) < self.send.borrow().current_max_send_streams().max(1)
    }

    /// Whether the peer has said how many streams it takes.
    fn is_said(&self) -> bool {
        self.send.borrow().current_max_send_streams() != UNSAID
    }

    /// Ready, or broken. A stream may still be waiting to be opened: of one whose answer is over the body may be on its way, and the peer
    /// may have changed its mind. A handle would wait for it, and wake only one of those who wait; a new one knows of none, and the
    /// codec opens its stream when it can.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let mut send = self.send.borrow_mut();
        let ready = send.poll_ready(cx);
        if ready.is_ready() {
            return ready;
        }
        let another = send.clone();
        *send = another;
        Poll::Ready(Ok(()))
    }
}

impl Pool2 {
    pub(crate) fn new(to: SocketAddr, secure: Option<Secure>, app: App) -> Self {
        Self {
            to,
            secure,
            app,
            per_connection: if app == App::Tcp { TUNNELS } else { STREAMS },
            connections: RefCell::default(),
            connecting: tokio::sync::Mutex::new(()),
            failed: RefCell::default(),
        }
    }

    /// A place for a stream on a connection that is ready for it.
    pub(crate) async fn stream(&self, dialer: &Dialer) -> Result<Stream2, Failure> {
        loop {
            let Some(stream) = self.free() else {
                // Rare, and large: kept out of every request's future.
                Box::pin(self.grow(dialer)).await?;
                continue;
            };
            if poll_fn(|cx| stream.0.poll_ready(cx)).await.is_ok() {
                return Ok(stream);
            }
            stream.0.usable.set(false);
        }
    }

    /// Opens a connection, unless another one who waited has done so meanwhile.
    async fn grow(&self, dialer: &Dialer) -> Result<(), Failure> {
        let asked = Instant::now();
        let _turn = self.connecting.lock().await;
        if self.has_room() {
            return Ok(());
        }
        if let Some((when, failure)) = &*self.failed.borrow()
            && *when >= asked
        {
            return Err(failure.clone());
        }
        if self.connections.borrow().len() >= MAX_CONNECTIONS {
            let detail =
                format!("{} has {MAX_CONNECTIONS} connections with {} streams each", self.to, self.per_connection);
            return Err(Failure::new(Reason::Overloaded, detail));
        }
        let opened = self.open(dialer).await;
        if let Err(failure) = &opened {
            *self.failed.borrow_mut() = Some((Instant::now(), failure.clone()));
        }
        opened
    }

    /// The first connection with room: fewer connections, larger batches.
    fn free(&self) -> Option<Stream2> {
        let mut connections = self.connections.borrow_mut();
        if let Some(c) = connections.iter().find(|c| c.has_room(self.per_connection)) {
            return Some(Stream2::take(c));
        }
        connections.retain(|c| c.usable.get());
        None
    }

    fn has_room(&self) -> bool {
        self.connections.borrow().iter().any(|c| c.has_room(self.per_connection))
    }

    /// Forgets connections that are broken or idle; their streams, if any, go on.
    pub(crate) fn sweep(&self, now: Instant) {
        self.connections
            .borrow_mut()
            .retain(|c| c.usable.get() && (c.streams.get() > 0 || now.duration_since(c.used.get()) < IDLE));
    }

    async fn open(&self, dialer: &Dialer) -> Result<(), Failure> {
        match &self.secure {
            Some(secure) => {
                let (stream, standing) = dialer.secure(self.to, &secure.sni, &secure.expected).await?;
                self.handshake(dialer, Coalesced::new(stream), Some(standing)).await
            }
            None => {
                let stream = dial::connect(self.to).await?;
                self.handshake(dialer, Coalesced::new(stream), None).await
            }
        }
    }

    /// Begins HTTP/2 on a connection that stands on `standing`.
    async fn handshake<S>(&self, dialer: &Dialer, io: S, mut standing: Option<TrustWatch>) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (io, held) = ReadPause::new(io);
        let windows = StreamWindows::new(self.app);
        // What a proxy takes is part of the contract: it need not be waited for.
        let unsaid = if self.secure.is_some() { self.per_connection as usize } else { UNSAID };
        let (send, driver) = Builder::new()
            .initial_max_send_streams(unsaid)
            .initial_window_size(windows.size())
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(MAX_HEAD as u32)
            .max_concurrent_reset_streams(1024)
            .enable_push(false)
            .handshake::<_, Bytes>(io)
            .await
            .map_err(|e| Failure::new(Reason::ConnectFailed, format!("{} does not speak HTTP/2: {e}", self.to)))?;
        let connection = Rc::new(Connection2 {
            send: RefCell::new(send),
            streams: Cell::new(0),
            usable: Cell::new(true),
            used: Cell::new(Instant::now()),
            waiting: Waiting::default(),
            said: Rc::default(),
        });
        let driven = Rc::downgrade(&connection);
        let (open, waiting) = (dialer.count(), connection.waiting.clone());
        let (said, ended) = (Rc::clone(&connection.said), Rc::clone(&connection.said));
        let mut heard = false;
        let to = self.to;
        tokio::task::spawn_local(async move {
            let unusable = || {
                if let Some(connection) = driven.upgrade() {
                    connection.usable.set(false);
                }
            };
            let mut driver = pin!(write_first::drive(driver, held, waiting, windows, |driver| {
                if !heard && driver.max_concurrent_send_streams() != UNSAID {
                    heard = true;
                    said.notify_one();
                }
            }));
            loop {
                tokio::select! {
                    () = driver.as_mut() => break,
                    lost = trust::lost(&mut standing) => {
                        // It is given no more streams, and ends with the last of those that it carries.
                        unusable();
                        if lost == Untrusted::Revoked {
                            tracing::warn!(%to, "a connection that stands on a revoked root is cut off");
                            let _ = tokio::time::timeout(trust::REVOKED_GRACE, driver.as_mut()).await;
                            break;
                        }
                    }
                }
            }
            unusable();
            ended.notify_one();
            drop(open);
        });
        self.hear(&connection).await?;
        self.connections.borrow_mut().push(connection);
        Ok(())
    }

    /// Waits until the peer has said how many streams it takes.
    async fn hear(&self, connection: &Connection2) -> Result<(), Failure> {
        if !connection.is_said() {
            // One that does not say takes as many as it is given.
            let _ = tokio::time::timeout(SETTINGS_DEADLINE, connection.said.notified()).await;
        }
        if connection.usable.get() {
            return Ok(());
        }
        let detail = format!("{} does not speak HTTP/2: it closed the connection", self.to);
        Err(Failure::new(Reason::ConnectFailed, detail))
    }

    /// Gives every connection up; their streams go on.
    pub(crate) fn close(&self) {
        self.connections.borrow_mut().clear();
    }
}
