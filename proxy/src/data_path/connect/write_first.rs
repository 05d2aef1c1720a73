//! Drives an HTTP/2 connection so that the requests that wait are written before anything is read.
//!
//! A server that ends in order sends GOAWAY and a ping, and refuses what comes after the answer to the ping (RFC 9113, section 6.8). The
//! codec reads first: it would answer the ping ahead of requests that were handed to it a moment before, and they would fail.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::client::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::data_path::buffer::windows::StreamWindows;

/// The socket of a connection; while it is held, nothing is read, and what is written waits in the codec.
pub(crate) struct ReadPause<S> {
    inner: S,
    held: Rc<Cell<bool>>,
}

/// Says that requests wait to be written.
#[derive(Clone, Default)]
pub(crate) struct Waiting(Rc<Cell<bool>>);

impl Waiting {
    pub(crate) fn note(&self) {
        self.0.set(true);
    }
}

impl<S> ReadPause<S> {
    /// The socket, and what holds it.
    pub(crate) fn new(inner: S) -> (Self, Rc<Cell<bool>>) {
        let held = Rc::new(Cell::new(false));
        (Self { inner, held: Rc::clone(&held) }, held)
    }
}

/// Drives `connection` to its end; `polled` looks at it after each turn.
pub(crate) async fn drive<S>(
    mut connection: Connection<ReadPause<S>, Bytes>,
    held: Rc<Cell<bool>>,
    waiting: Waiting,
    mut windows: StreamWindows,
    mut polled: impl FnMut(&Connection<ReadPause<S>, Bytes>),
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        windows.adapt(|size| connection.set_initial_window_size(size));
        if waiting.0.replace(false) {
            held.set(true);
            let ended = Pin::new(&mut connection).poll(cx);
            held.set(false);
            if ended.is_ready() {
                return Poll::Ready(());
            }
        }
        // How a connection ended is told to each of its streams.
        let ended = Pin::new(&mut connection).poll(cx).map(drop);
        polled(&connection);
        ended
    })
    .await;
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadPause<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // The connection is polled again at once: nobody has to be woken.
        if self.held.get() { Poll::Pending } else { Pin::new(&mut self.inner).poll_read(cx, buf) }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadPause<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.get() { Poll::Pending } else { Pin::new(&mut self.inner).poll_flush(cx) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
