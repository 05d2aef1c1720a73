//! The socket below the codec of HTTP/1: its use is noted, a client's end is kept from the codec while it answers, and what the codec
//! says by itself is said in the proxy's words.
//!
//! The codec answers a head that it cannot read (400, 414, 431) before anybody hears of it, without a word of why. Such an answer is known
//! by that no request is owed one: none has begun since the last answer was handed to the kernel whole.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    contract::reason::Reason,
    data_path::{
        buffer::activity::SocketState,
        failure::Failure,
        http::local_reply::raw_local_reply,
        limits::messages::{MAX_HEAD, MAX_HEADERS},
    },
};

/// A socket whose use is noted.
pub(crate) struct TrackedSocket<S> {
    inner: S,
    state: Arc<SocketState>,
    /// What is said instead of the codec's own answer: the last words on this connection.
    last: Option<Box<LastWords>>,
}

struct LastWords {
    text: String,
    written: usize,
}

impl<S> TrackedSocket<S> {
    pub(crate) fn new(inner: S, state: Arc<SocketState>) -> Self {
        Self { inner, state, last: None }
    }

    pub(crate) fn into_inner(self) -> S {
        self.inner
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        self.state.touched.store(true, Relaxed);
        self.state.blocked.store(written.is_pending(), Relaxed);
        written
    }

    /// Whether what comes now is the codec's own.
    fn is_own(&self) -> bool {
        !self.state.owed.load(Relaxed) && !self.state.switched.load(Relaxed)
    }
}

impl<S: AsyncWrite + Unpin> TrackedSocket<S> {
    /// Writes what the proxy says instead of `head`; the codec is told that all of its `length` bytes are written.
    fn poll_last(&mut self, cx: &mut Context<'_>, head: &[u8], length: usize) -> Poll<io::Result<usize>> {
        let last = self.last.get_or_insert_with(|| Box::new(LastWords { text: instead_of(head), written: 0 }));
        while let Some(left) = last.text.as_bytes().get(last.written..).filter(|left| !left.is_empty()) {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => last.written += n,
            }
        }
        Poll::Ready(Ok(length))
    }
}

/// The whole answer for one whose head begins `HTTP/1.1 CODE REASON`.
fn instead_of(head: &[u8]) -> String {
    let kib = MAX_HEAD >> 10;
    let (status, detail) = match head.get(9..12) {
        Some(b"414") => ("414 URI Too Long", format!("the request's target is longer than {} bytes", u16::MAX - 1)),
        Some(b"431") => {
            let detail = format!("the request's head is larger than {kib} KiB or has more than {MAX_HEADERS} headers");
            ("431 Request Header Fields Too Large", detail)
        }
        _ => ("400 Bad Request", "the request's head is not HTTP/1".to_owned()),
    };
    raw_local_reply(status, &Failure::new(Reason::BadRequest, detail))
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_ready() {
            let ended = matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before;
            if ended && self.state.answering.load(Relaxed) {
                self.state.codec.register(cx.waker());
                self.state.half_closed.store(true, Relaxed);
                self.state.upload.wake();
                return Poll::Pending;
            }
            self.state.touched.store(true, Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = if self.is_own() {
            self.poll_last(cx, bytes, bytes.len())
        } else {
            Pin::new(&mut self.inner).poll_write(cx, bytes)
        };
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = if self.is_own() {
            let length = slices.iter().map(|slice| slice.len()).sum();
            self.poll_last(cx, slices.first().map_or(&[], |slice| slice), length)
        } else {
            Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
        };
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// The codec asks for this when its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.state.answering.load(Relaxed) {
            self.state.owed.store(false, Relaxed);
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
