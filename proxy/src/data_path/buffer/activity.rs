//! What an HTTP/1 connection of a client has in progress: requests, and bodies that are not over.
//!
//! A client may end its side of the connection once its request is whole, and still wants the answer. The socket keeps that end from the
//! codec until the answer is over; a request's body that lacks its end then breaks off.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Context,
};

use futures_util::task::AtomicWaker;

/// Turns of the scheduler after which the codec has handed over what it read.
const TURNS: u8 = 4;

/// What is known of the connection's socket. Apart from the socket, which may go to another thread with an upgrade.
#[derive(Default)]
pub(crate) struct SocketState {
    /// Something was read or written.
    pub(crate) touched: AtomicBool,
    /// Something waits to be written.
    pub(crate) blocked: AtomicBool,
    /// A request is being answered.
    pub(crate) answering: AtomicBool,
    /// An answer to a request may be on its way to the kernel.
    pub(crate) owed: AtomicBool,
    /// It does not speak HTTP any more.
    pub(crate) switched: AtomicBool,
    /// The client has ended its side meanwhile.
    pub(crate) half_closed: AtomicBool,
    /// Waits for the rest of a request's body, of which there is no more then.
    pub(crate) upload: AtomicWaker,
    /// The codec, which was not told.
    pub(crate) codec: AtomicWaker,
}

/// Counts what a connection has in progress.
#[derive(Default)]
pub(crate) struct Activity {
    /// Requests and bodies that are not over.
    pub(crate) in_progress: Cell<u32>,
    /// Requests begun.
    pub(crate) begun: Cell<u64>,
    /// Apart, since the socket may go to another thread with an upgrade.
    pub(crate) socket: Arc<SocketState>,
}

/// A request, or one of its bodies; it is in progress until this is dropped.
pub(crate) struct ActivityGuard {
    activity: Rc<Activity>,
    /// It is a request's body.
    upload: bool,
    /// Turns that its reader gave the codec, to hand over what it has, since the client ended its side.
    turns: Cell<u8>,
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        let left = self.activity.in_progress.get().saturating_sub(1);
        self.activity.in_progress.set(left);
        if left == 0 {
            self.activity.socket.answering.store(false, Relaxed);
            if self.activity.socket.half_closed.load(Relaxed) {
                self.activity.socket.codec.wake();
            }
        }
    }
}

impl ActivityGuard {
    /// The connection its request came on.
    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// For the request's body.
    pub(crate) fn upload(&self) -> Self {
        self.activity.in_progress.set(self.activity.in_progress.get() + 1);
        Self { activity: Rc::clone(&self.activity), upload: true, turns: Cell::new(0) }
    }

    /// Something came of the body.
    pub(crate) fn progress(&self) {
        self.turns.set(0);
    }

    /// Whether the body, of which there is nothing to be had at the moment, is cut off: its client has ended its side, and the codec
    /// has nothing left.
    pub(crate) fn is_cut(&self, cx: &Context<'_>) -> bool {
        if !self.upload {
            return false;
        }
        self.activity.socket.upload.register(cx.waker());
        if !self.activity.socket.half_closed.load(Relaxed) {
            return false;
        }
        let turns = self.turns.replace(self.turns.get().saturating_add(1));
        if turns < TURNS {
            cx.waker().wake_by_ref();
        }
        turns >= TURNS
    }
}

impl Activity {
    /// Another request.
    pub(crate) fn begin(self: &Rc<Self>) -> ActivityGuard {
        self.begun.set(self.begun.get() + 1);
        self.in_progress.set(self.in_progress.get() + 1);
        self.socket.answering.store(true, Relaxed);
        self.socket.owed.store(true, Relaxed);
        ActivityGuard { activity: Rc::clone(self), upload: false, turns: Cell::new(0) }
    }

    /// What is written from now on is not HTTP any more.
    pub(crate) fn switch(&self) {
        self.socket.switched.store(true, Relaxed);
    }
}
