//! When a connection of HTTP/1 carries nothing: then its codec is taken down, for its buffers are most of what a connection costs.
//!
//! A clock checks once in a while, so that a request pays for no timer of its own. It also ends what sends a head too slowly.
//!
//! A client may end its side of the connection once its request is whole, and still wants the answer, as it gets it without a mesh
//! (`nc -N`). That end cannot be told from that of a client which is gone, and is kept from the codec, which would give the request up:
//! until the answer is over, or nothing was written for [`HALF_CLOSED`]. A request's body that lacks its end breaks off then, and a
//! reset is always told at once.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use crate::data_path::{buffer::activity::Activity, limits::messages::HEAD_DEADLINE};

/// How often a connection is looked at: one that was idle from one look to the next is taken down.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time between two checks at one that carries a request.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(8);
/// How long a client that ended its side waits for the next byte: most of them are gone, and what they asked for is done in vain.
const HALF_CLOSED: Duration = Duration::from_secs(10);
/// What a look at a connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// In use; the time of the next look.
    Again(Instant),
    /// It carries nothing and may be taken down.
    Idle,
    /// Its client is too slow to send a head.
    SlowHead,
    /// Its client has ended its side, and waited for long.
    HalfClosed,
}

/// Looks at a connection, again and again.
#[derive(Debug, Default)]
pub(crate) struct IdleCheck {
    begun: u64,
    /// Looks in a row that found a request under way.
    checks: u32,
    /// When a head was first seen to be incomplete.
    head: Option<Instant>,
    /// Since when a client that ended its side waits.
    waits: Option<Instant>,
}

impl IdleCheck {
    pub(crate) fn check(&mut self, activity: &Activity, now: Instant) -> Check {
        let touched = activity.socket.touched.swap(false, Relaxed);
        let begun = activity.begun.get();
        if activity.in_progress.get() > 0 {
            self.checks = self.checks.saturating_add(1).min(3);
            self.head = None;
            self.begun = begun;
            if activity.socket.half_closed.load(Relaxed) {
                if touched {
                    self.waits = None;
                }
                if *self.waits.get_or_insert(now) + HALF_CLOSED <= now {
                    return Check::HalfClosed;
                }
            }
            return Check::Again(now + (CHECK_INTERVAL * 2_u32.pow(self.checks)).min(MAX_CHECK_INTERVAL));
        }
        self.checks = 0;
        if activity.socket.blocked.load(Relaxed) {
            return Check::Again(now + CHECK_INTERVAL);
        }
        if !touched {
            return Check::Idle;
        }
        if std::mem::replace(&mut self.begun, begun) != begun {
            self.head = None;
        } else if self.head_deadline(now) <= now {
            return Check::SlowHead;
        }
        Check::Again(now + CHECK_INTERVAL)
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
    use std::rc::Rc;

    use super::*;

    struct Seen {
        activity: Rc<Activity>,
        idle_check: IdleCheck,
        now: Instant,
    }

    impl Seen {
        fn new() -> Self {
            Self { activity: Rc::default(), idle_check: IdleCheck::default(), now: Instant::now() }
        }

        /// A look `seconds` later.
        fn after(&mut self, seconds: u64) -> Check {
            self.now += Duration::from_secs(seconds);
            self.idle_check.check(&self.activity, self.now)
        }

        fn again(&self, seconds: u64) -> Check {
            Check::Again(self.now + Duration::from_secs(seconds))
        }

        fn touch(&self) {
            self.activity.socket.touched.store(true, Relaxed);
        }
    }

    #[test]
    fn what_was_idle_between_two_checks_is_taken_down() {
        let mut seen = Seen::new();
        drop(seen.activity.begin());
        seen.touch();
        assert_eq!(seen.after(1), seen.again(1));
        assert_eq!(seen.after(1), Check::Idle);
    }

    #[test]
    fn what_carries_a_request_is_looked_at_less_and_less_often() {
        let mut seen = Seen::new();
        let request = seen.activity.begin();
        let body = request.upload();
        drop(request);
        for next in [2, 4, 8, 8] {
            assert_eq!(seen.after(1), seen.again(next));
        }
        drop(body);
        seen.activity.socket.blocked.store(true, Relaxed);
        assert_eq!(seen.after(8), seen.again(1), "the end of an answer waits to be taken");
        seen.activity.socket.blocked.store(false, Relaxed);
        assert_eq!(seen.after(1), Check::Idle);
    }

    #[test]
    fn a_client_that_ended_its_side_gets_its_time_after_every_byte() {
        let mut seen = Seen::new();
        let _request = seen.activity.begin();
        seen.activity.socket.half_closed.store(true, Relaxed);
        for _ in 0..3 {
            seen.touch();
            for _ in 0..3 {
                assert!(matches!(seen.after(4), Check::Again(_)));
            }
        }
        assert_eq!(seen.after(10), Check::HalfClosed);
    }

    #[test]
    fn a_head_that_trickles_is_given_its_time_and_no_more() {
        let mut seen = Seen::new();
        for _ in 0..30 {
            seen.touch();
            assert_eq!(seen.after(1), seen.again(1));
        }
        seen.touch();
        assert_eq!(seen.after(1), Check::SlowHead);
        let mut seen = Seen::new();
        for _ in 0..100 {
            drop(seen.activity.begin());
            seen.touch();
            assert_eq!(seen.after(1), seen.again(1), "requests one after the other");
        }
    }
}
