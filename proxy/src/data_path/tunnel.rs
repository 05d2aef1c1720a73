//! Opaque bytes: copied both ways with buffers that grow with the stream, half-close kept, a reset told on as a reset.

use std::{
    io,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{Method, Request, Response, Version};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    contract::bootstrap::{REASON_HEADER, Reason, tunnel::App},
    data_path::{
        buffer::{
            send,
            windows::{self, Held},
        },
        connect::{self, endpoint::Candidate, http2::Stream2},
        drain::Phase,
        http::{
            exchange::{Context, Tried},
            local_reply::{Failure, refusal},
            server::http2,
        },
        route::retry::Unsent,
        worker::Worker,
    },
    telemetry::metrics::Direction,
};

/// Sizes that a buffer goes through while it is filled each time.
const SIZES: [usize; 3] = [1 << 10, 16 << 10, 256 << 10];

/// A buffer that starts small, so that idle connections cost little, and grows while there is much to read.
struct Buffer {
    bytes: BytesMut,
    size: usize,
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: BytesMut::new(), size: 0 }
    }

    /// The next bytes; empty at the end.
    async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
        let size = SIZES[if windows::is_narrow() { self.size.min(1) } else { self.size }];
        if self.bytes.capacity() < size / 2 {
            self.bytes = BytesMut::with_capacity(size);
        }
        let room = self.bytes.capacity();
        let n = from.read_buf(&mut self.bytes).await?;
        if n == room {
            self.size = (self.size + 1).min(SIZES.len() - 1);
        } else if n < SIZES[0] && self.size > 0 {
            self.size -= 1;
            let read = self.bytes.split().freeze();
            self.bytes = BytesMut::new();
            return Ok(read);
        }
        Ok(self.bytes.split().freeze())
    }
}

/// Copies one way until the end, which is told on.
async fn one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = Buffer::new();
    loop {
        let bytes = buffer.fill(from).await?;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        let held = Held::new();
        to.write_all(&bytes).await?;
        drop(held);
        count.fetch_add(bytes.len() as u64, Relaxed);
    }
}

/// Copies from a connection into a stream until the end, which is told on.
async fn up(from: &mut (impl AsyncRead + Unpin), to: &mut SendStream<Bytes>, count: &AtomicU64) -> io::Result<()> {
    let mut buffer = Buffer::new();
    loop {
        let read = {
            let fill = buffer.fill(from);
            let gone = std::future::poll_fn(|cx| to.poll_reset(cx));
            tokio::select! {
                biased;
                read = fill => read?,
                _ = gone => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        };
        let n = read.len();
        let end = read.is_empty();
        if !send::send(to, read, end).await {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if end {
            return Ok(());
        }
        count.fetch_add(n as u64, Relaxed);
    }
}

/// Copies from a stream into a connection until the end, which is told on.
async fn down(from: &mut RecvStream, to: &mut (impl AsyncWrite + Unpin), count: &AtomicU64) -> io::Result<()> {
    while let Some(data) = from.data().await {
        let data = data.map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset))?;
        let held = Held::new();
        to.write_all(&data).await?;
        drop(held);
        count.fetch_add(data.len() as u64, Relaxed);
        from.flow_control()
            .release_capacity(data.len())
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset))?;
    }
    to.shutdown().await
}

/// Copies between a connection and a stream until both ways have ended; `false` when one broke off.
pub(crate) async fn copy_stream<S>(
    io: S,
    mut into: SendStream<Bytes>,
    mut from: RecvStream,
    worker: &Rc<Worker>,
    direction: Direction,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let flow = worker.metrics.flow(direction);
    // Seen from the one who connected: outbound that is the connection, inbound the stream.
    let (upwards, downwards) = match direction {
        Direction::Outbound => (&flow.received, &flow.sent),
        Direction::Inbound => (&flow.sent, &flow.received),
    };
    let (mut read, mut write) = tokio::io::split(io);
    let mut drain = worker.drain.watch();
    let both = async { tokio::try_join!(up(&mut read, &mut into, upwards), down(&mut from, &mut write, downwards)) };
    let whole = tokio::select! {
        done = both => done.is_ok(),
        () = drain.reached(Phase::Forced) => false,
    };
    if !whole {
        into.send_reset(h2::Reason::CANCEL);
    }
    whole
}

/// Copies between two connections until both ways have ended; `false` when one broke off.
pub(crate) async fn copy_both<A, B>(client: A, server: B, worker: &Rc<Worker>, direction: Direction) -> bool
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let flow = worker.metrics.flow(direction);
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut server_read, mut server_write) = tokio::io::split(server);
    let mut drain = worker.drain.watch();
    let both = async {
        tokio::try_join!(
            one_way(&mut client_read, &mut server_write, &flow.received),
            one_way(&mut server_read, &mut client_write, &flow.sent),
        )
    };
    tokio::select! {
        done = both => done.is_ok(),
        () = drain.reached(Phase::Forced) => false,
    }
}

/// Makes closing a connection a reset: the peer is to know that it did not end in order.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}

/// The far end of an opaque connection.
pub(crate) enum Tunnel {
    /// Straight to the application or out of the mesh.
    Plain(TcpStream),
    /// A stream to its proxy.
    Mesh { into: SendStream<Bytes>, from: RecvStream, early: Option<Bytes>, _stream: Stream2 },
}

impl Tunnel {
    /// Opens one to an endpoint of the route, another one if the first cannot be reached.
    pub(crate) async fn open(context: &Context) -> Result<(Self, Rc<Candidate>), Failure> {
        let mut tried = Tried::default();
        loop {
            let candidate = context.route.pick(&context.worker, &tried)?;
            let opened = if candidate.endpoint.key.identity.is_some() {
                Self::mesh(context, &candidate).await
            } else {
                let connected = connect::dial::connect(candidate.endpoint.key.address).await;
                connected.map(Self::Plain).map_err(|failure| Unsent::unseen(failure, None))
            };
            match opened {
                Ok(tunnel) => {
                    candidate.endpoint.reached();
                    return Ok((tunnel, candidate));
                }
                Err(unsent) => tried.unopened(context, &candidate, unsent)?,
            }
        }
    }

    async fn mesh(context: &Context, candidate: &Candidate) -> Result<Self, Unsent> {
        let address = candidate.endpoint.key.address;
        let refused = |failure| Unsent::unseen(failure, None);
        let stream = candidate.endpoint.h2(App::Tcp).stream(&context.worker).await.map_err(refused)?;
        // That of a kept connection that had ended before anybody noticed, most likely.
        let lost = |e: h2::Error| Unsent::lost(candidate, &e, None);
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.version_mut() = Version::HTTP_2;
        if let Some(authority) = candidate.endpoint.authority() {
            *request.uri_mut() = authority;
        }
        let (answer, into) = stream.send(request, false).map_err(lost)?;
        let answer = answer.await.map_err(lost)?;
        if !answer.status().is_success() {
            let why = answer.headers().get(REASON_HEADER).and_then(|r| r.to_str().ok()).unwrap_or("no reason given");
            return Err(refused(Failure::new(Reason::ConnectFailed, format!("the proxy at {address} refused: {why}"))));
        }
        Ok(Self::Mesh { into, from: answer.into_body(), early: None, _stream: stream })
    }

    /// Waits until the far end has something to say (or has closed).
    pub(crate) async fn speaks(&mut self) {
        match self {
            Self::Plain(stream) => {
                let _ = stream.readable().await;
            }
            Self::Mesh { from, early, .. } => {
                if early.is_none() {
                    *early = Some(match from.data().await {
                        Some(Ok(data)) => {
                            let _ = from.flow_control().release_capacity(data.len());
                            data
                        }
                        Some(Err(_)) | None => Bytes::new(),
                    });
                }
            }
        }
    }

    /// Copies until both ways have ended; `first` was read from the client already.
    pub(crate) async fn carry(self, mut client: TcpStream, first: &[u8], worker: &Rc<Worker>, direction: Direction) {
        let received = &worker.metrics.flow(direction).received;
        let whole = match self {
            Self::Plain(mut server) => {
                if server.write_all(first).await.is_err() {
                    reset_on_close(&client);
                    return;
                }
                received.fetch_add(first.len() as u64, Relaxed);
                let whole = copy_both(&mut client, &mut server, worker, direction).await;
                if !whole {
                    reset_on_close(&server);
                }
                whole
            }
            Self::Mesh { mut into, from, early, _stream } => {
                if let Some(early) = early {
                    if client.write_all(&early).await.is_err() {
                        return;
                    }
                    worker.metrics.flow(direction).sent.fetch_add(early.len() as u64, Relaxed);
                }
                if !first.is_empty() {
                    received.fetch_add(first.len() as u64, Relaxed);
                    if !send::send(&mut into, Bytes::copy_from_slice(first), false).await {
                        reset_on_close(&client);
                        return;
                    }
                }
                copy_stream(&mut client, into, from, worker, direction).await
            }
        };
        if !whole {
            reset_on_close(&client);
        }
    }
}

/// A tunnel from another proxy to the application of this pod.
pub(crate) async fn accept_tunnel(context: &Context, from: RecvStream, mut respond: SendResponse<Bytes>) {
    let candidate = match context.route.pick(&context.worker, &Tried::default()) {
        Ok(candidate) => candidate,
        Err(failure) => {
            context.worker.refused(context.direction, &failure);
            return http2::send(refusal(&failure, false), respond).await;
        }
    };
    let connecting = connect::dial::connect(candidate.endpoint.key.address);
    let Some(connected) = http2::unless_reset(connecting, &mut respond).await else { return };
    let mut application = match connected {
        Ok(stream) => stream,
        Err(failure) => {
            context.worker.refused(context.direction, &failure);
            return http2::send(refusal(&failure, false), respond).await;
        }
    };
    let Ok(into) = respond.send_response(Response::new(()), false) else { return };
    let _open = context.worker.metrics.open(context.direction);
    if let Some(count) = &context.tunnels {
        count.fetch_add(1, Relaxed);
    }
    if !copy_stream(&mut application, into, from, &context.worker, context.direction).await {
        reset_on_close(&application);
    }
}
