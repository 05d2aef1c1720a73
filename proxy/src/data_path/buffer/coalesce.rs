//! Holds a flush back by one turn of the scheduler, so that all that became ready in that turn leaves in one TLS record and one
//! system call.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Buffered bytes from which writing is not held back any longer.
const HIGH: usize = 64 << 10;
/// A write of this size skips the buffer when that is empty: batching has nothing to gain, copying costs.
const LARGE: usize = 16 << 10;
/// Capacity that an idle connection keeps.
const KEEP: usize = 4 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Coalesced<S> {
    inner: S,
    buffer: Vec<u8>,
    written: usize,
    waited: bool,
}

impl<S> Coalesced<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, buffer: Vec::new(), written: 0, waited: false }
    }
}

impl<S: AsyncWrite + Unpin> Coalesced<S> {
    fn write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.buffer[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.buffer.clear();
        self.written = 0;
        if self.buffer.capacity() > KEEP {
            self.buffer.shrink_to(KEEP);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= HIGH {
            ready!(self.write_out(cx))?;
        }
        if self.buffer.is_empty() && bytes.len() >= LARGE {
            return Pin::new(&mut self.inner).poll_write(cx, bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= HIGH {
            ready!(self.write_out(cx))?;
        }
        let total: usize = slices.iter().map(|s| s.len()).sum();
        if self.buffer.is_empty() && total >= LARGE {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        }
        for slice in slices {
            self.buffer.extend_from_slice(slice);
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.buffer.is_empty() && !self.waited {
            self.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.write_out(cx))?;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.waited = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
