//! Copies opaque bytes both ways with buffers that grow with the stream: a half-close is kept, a reset is passed on as a reset.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    data_path::{
        buffer::{
            send::send_chunk,
            windows::{self, PendingChunk},
        },
        drain::{Phase, Watch},
    },
    telemetry::metrics::{Direction, Flow, Metrics},
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
        let size = SIZES[if windows::is_high() { self.size.min(1) } else { self.size }];
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
        let pending = PendingChunk::new();
        to.write_all(&bytes).await?;
        drop(pending);
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
        if !send_chunk(to, read, end).await {
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
        let pending = PendingChunk::new();
        to.write_all(&data).await?;
        drop(pending);
        count.fetch_add(data.len() as u64, Relaxed);
        from.flow_control()
            .release_capacity(data.len())
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset))?;
    }
    to.shutdown().await
}

/// Copies between a connection and a stream until both ways have ended; `false` when one broke off.
pub(crate) async fn copy_http2<S>(
    io: S,
    mut into: SendStream<Bytes>,
    mut from: RecvStream,
    metrics: &Metrics,
    direction: Direction,
    mut drain: Watch,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let flow = metrics.flow(direction);
    // Seen from the one who connected: outbound that is the connection, inbound the stream.
    let (upwards, downwards) = match direction {
        Direction::Outbound => (&flow.received, &flow.sent),
        Direction::Inbound => (&flow.sent, &flow.received),
    };
    let (mut read, mut write) = tokio::io::split(io);
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
pub(crate) async fn copy_bidirectional<A, B>(client: A, server: B, flow: &Flow, mut drain: Watch) -> bool
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut server_read, mut server_write) = tokio::io::split(server);
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
