//! When a connection of HTTP/1 carries nothing: then its codec is taken down, for its buffers are most of what a connection costs.
//!
//! A clock looks once in a while, so that a request pays for no timer of its own. It also ends what sends a head too slowly.
//!
//! A client may end its side of the connection once its request is whole, and still wants the answer, as it gets it without a mesh
//! (`nc -N`). That end cannot be told from that of a client which is gone, and is kept from the codec, which would give the request up:
//! until the answer is over, or nothing was written for [`HALF_CLOSED`]. A request's body that lacks its end breaks off then, and a
//! reset is always told at once.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Context,
    time::Duration,
};

use tokio::time::Instant;

use super::socket::{Observed, Socket};

/// How often a connection is looked at: one that was idle from one look to the next is taken down.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
/// Longest time between two looks at one that carries a request.
const MOST: Duration = Duration::from_secs(8);
/// How long a client may take to send a head, from its first byte.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long a client that ended its side waits for the next byte: most of them are gone, and what they asked for is done in vain.
const HALF_CLOSED: Duration = Duration::from_secs(10);
/// Turns of the scheduler after which the codec has handed over what it read.
const TURNS: u8 = 4;

/// Counts what a connection carries.
#[derive(Default)]
pub(crate) struct Traffic {
    /// Requests and bodies that are not over.
    carried: Cell<u32>,
    /// Requests begun.
    begun: Cell<u64>,
    /// Apart, since the socket may go to another thread with an upgrade.
    socket: Arc<Socket>,
}

/// A request, or one of its bodies; it is carried until this is dropped.
pub(crate) struct Carried {
    traffic: Rc<Traffic>,
    /// It is a request's body.
    upload: bool,
    /// Turns that its reader gave the codec, to hand over what it has, since the client ended its side.
    turns: Cell<u8>,
}

impl Drop for Carried {
    fn drop(&mut self) {
        let left = self.traffic.carried.get().saturating_sub(1);
        self.traffic.carried.set(left);
        if left == 0 {
            self.traffic.socket.answering.store(false, Relaxed);
            if self.traffic.socket.half_closed.load(Relaxed) {
                self.traffic.socket.codec.wake();
            }
        }
    }
}

impl Carried {
    /// The connection its request came on.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// For the request's body.
    pub(crate) fn upload(&self) -> Self {
        self.traffic.carried.set(self.traffic.carried.get() + 1);
        Self { traffic: Rc::clone(&self.traffic), upload: true, turns: Cell::new(0) }
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
        self.traffic.socket.upload.register(cx.waker());
        if !self.traffic.socket.half_closed.load(Relaxed) {
            return false;
        }
        let turns = self.turns.replace(self.turns.get().saturating_add(1));
        if turns < TURNS {
            cx.waker().wake_by_ref();
        }
        turns >= TURNS
    }
}

impl Traffic {
    /// Another request.
    pub(crate) fn begin(self: &Rc<Self>) -> Carried {
        self.begun.set(self.begun.get() + 1);
        self.carried.set(self.carried.get() + 1);
        self.socket.answering.store(true, Relaxed);
        self.socket.owed.store(true, Relaxed);
        Carried { traffic: Rc::clone(self), upload: false, turns: Cell::new(0) }
    }

    /// The socket, observed.
    pub(crate) fn observe<S>(&self, inner: S) -> Observed<S> {
        Observed::new(inner, Arc::clone(&self.socket))
    }

    /// What is written from now on is not HTTP any more.
    pub(crate) fn switch(&self) {
        self.socket.switched.store(true, Relaxed);
    }
}

/// What a look at a connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// In use; the time of the next look.
    Again(Instant),
    /// It carries nothing and may be taken down.
    Idle,
    /// Its client is too slow to send a head.
    Slow,
    /// Its client has ended its side, and waited for long.
    Gone,
}

/// Looks at a connection, again and again.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    begun: u64,
    /// Looks in a row that found a request under way.
    looks: u32,
    /// When a head was first seen to be incomplete.
    head: Option<Instant>,
    /// Since when a client that ended its side waits.
    waits: Option<Instant>,
}

impl Clock {
    pub(crate) fn look(&mut self, traffic: &Traffic, now: Instant) -> Look {
        let touched = traffic.socket.touched.swap(false, Relaxed);
        let begun = traffic.begun.get();
        if traffic.carried.get() > 0 {
            self.looks = self.looks.saturating_add(1).min(3);
            self.head = None;
            self.begun = begun;
            if traffic.socket.half_closed.load(Relaxed) {
                if touched {
                    self.waits = None;
                }
                if *self.waits.get_or_insert(now) + HALF_CLOSED <= now {
                    return Look::Gone;
                }
            }
            return Look::Again(now + (LOOK * 2_u32.pow(self.looks)).min(MOST));
        }
        self.looks = 0;
        if traffic.socket.blocked.load(Relaxed) {
            return Look::Again(now + LOOK);
        }
        if !touched {
            return Look::Idle;
        }
        if std::mem::replace(&mut self.begun, begun) != begun {
            self.head = None;
        } else if self.head_deadline(now) <= now {
            return Look::Slow;
        }
        Look::Again(now + LOOK)
    }

    /// Until when the head that has begun is to be complete.
    pub(crate) fn head_deadline(&mut self, now: Instant) -> Instant {
        *self.head.get_or_insert(now) + HEAD_DEADLINE
    }

    /// No head has begun.
    pub(crate) fn reset(&mut self) {
        self.head = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Seen {
        traffic: Rc<Traffic>,
        clock: Clock,
        now: Instant,
    }

    impl Seen {
        fn new() -> Self {
            Self { traffic: Rc::default(), clock: Clock::default(), now: Instant::now() }
        }

        /// A look `seconds` later.
        fn after(&mut self, seconds: u64) -> Look {
            self.now += Duration::from_secs(seconds);
            self.clock.look(&self.traffic, self.now)
        }

        fn again(&self, seconds: u64) -> Look {
            Look::Again(self.now + Duration::from_secs(seconds))
        }

        fn touch(&self) {
            self.traffic.socket.touched.store(true, Relaxed);
        }
    }

    #[test]
    fn what_was_idle_between_two_looks_is_taken_down() {
        let mut seen = Seen::new();
        drop(seen.traffic.begin());
        seen.touch();
        assert_eq!(seen.after(1), seen.again(1));
        assert_eq!(seen.after(1), Look::Idle);
    }

    #[test]
    fn what_carries_a_request_is_looked_at_less_and_less_often() {
        let mut seen = Seen::new();
        let request = seen.traffic.begin();
        let body = request.upload();
        drop(request);
        for next in [2, 4, 8, 8] {
            assert_eq!(seen.after(1), seen.again(next));
        }
        drop(body);
        seen.traffic.socket.blocked.store(true, Relaxed);
        assert_eq!(seen.after(8), seen.again(1), "the end of an answer waits to be taken");
        seen.traffic.socket.blocked.store(false, Relaxed);
        assert_eq!(seen.after(1), Look::Idle);
    }

    #[test]
    fn a_client_that_ended_its_side_gets_its_time_after_every_byte() {
        let mut seen = Seen::new();
        let _request = seen.traffic.begin();
        seen.traffic.socket.half_closed.store(true, Relaxed);
        for _ in 0..3 {
            seen.touch();
            for _ in 0..3 {
                assert!(matches!(seen.after(4), Look::Again(_)));
            }
        }
        assert_eq!(seen.after(10), Look::Gone);
    }

    #[test]
    fn a_head_that_trickles_is_given_its_time_and_no_more() {
        let mut seen = Seen::new();
        for _ in 0..30 {
            seen.touch();
            assert_eq!(seen.after(1), seen.again(1));
        }
        seen.touch();
        assert_eq!(seen.after(1), Look::Slow);
        let mut seen = Seen::new();
        for _ in 0..100 {
            drop(seen.traffic.begin());
            seen.touch();
            assert_eq!(seen.after(1), seen.again(1), "requests one after the other");
        }
    }
}
