//! How loaded an endpoint seems (peak EWMA: the expected latency rises at once with a slow answer and falls slowly), and whether it is
//! ejected (outlier detection: connections to it failed).

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// Time in which a latency that was measured once loses most of its weight.
const DECAY: Duration = Duration::from_secs(10);
/// How long an endpoint is ejected after a connection to it failed: it is not picked unless there is no other. Twice as long each time that
/// the request which probes it afterwards fails too.
const EJECTION: Duration = Duration::from_secs(5);
/// And at most so long.
const MAX_EJECTION: Duration = Duration::from_secs(60);
/// What a failure counts as, at least: one that comes fast is no fast answer.
const FAILURE: Duration = Duration::from_secs(1);
/// An endpoint that answered so short a time ago most likely still does.
const FRESH: Duration = Duration::from_millis(10);
/// Answers in a row after which an endpoint is taken to be reliable.
const PROVEN_AFTER: u32 = 16;

/// See the module.
pub(crate) struct Load {
    micros: Cell<f64>,
    at: Cell<Instant>,
    in_flight: Cell<u32>,
    /// Answers in a row, up to [`PROVEN_AFTER`].
    successes: Cell<u32>,
    ejected_until: Cell<Option<Instant>>,
    ejected_for: Cell<Duration>,
    /// A request is on its way that tries whether it is back.
    probing: Cell<bool>,
}

impl Load {
    pub(super) fn new() -> Self {
        Self {
            micros: Cell::new(0.0),
            at: Cell::new(Instant::now()),
            in_flight: Cell::new(0),
            successes: Cell::new(0),
            ejected_until: Cell::new(None),
            ejected_for: Cell::new(EJECTION),
            probing: Cell::new(false),
        }
    }

    /// The expected time of one more request, microseconds times requests in flight.
    pub(crate) fn cost(&self, now: Instant) -> f64 {
        let age = now.duration_since(self.at.get()).as_secs_f64();
        let micros = self.micros.get() * (-age / DECAY.as_secs_f64()).exp();
        // One millisecond more for each in flight lets a new endpoint fill up gradually.
        (micros + 1000.0) * f64::from(self.in_flight.get() + 1)
    }

    /// Whether it is ejected: a connection to it failed a moment ago.
    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.get().is_some_and(|until| now < until)
    }

    /// Whether it was ejected for long enough and no request has probed it since.
    pub(crate) fn is_probe_due(&self, now: Instant) -> bool {
        self.ejected_until.get().is_some_and(|until| until <= now)
    }

    /// The next request probes whether it is back; for all others it stays ejected meanwhile.
    pub(crate) fn probe(&self, now: Instant) {
        self.probing.set(true);
        self.ejected_until.set(Some(now + self.ejected_for.get()));
    }

    /// Whether a request is to be kept for a retry: that costs a copy, which a busy endpoint need not pay.
    pub(crate) fn is_unproven(&self, now: Instant) -> bool {
        self.successes.get() < PROVEN_AFTER || now.duration_since(self.at.get()) > FRESH
    }

    /// It could not be reached, which took so long to know.
    pub(crate) fn connect_failed(&self, after: Duration) {
        self.connection_lost(after);
        // What fails together counts once.
        match (self.ejected_until.get(), self.probing.replace(false)) {
            (None, _) => self.ejected_for.set(EJECTION),
            (Some(_), true) => self.ejected_for.set((self.ejected_for.get() * 2).min(MAX_EJECTION)),
            (Some(_), false) => {}
        }
        self.ejected_until.set(Some(self.at.get() + self.ejected_for.get()));
    }

    /// An opaque connection reached it: it is back.
    pub(crate) fn connected(&self) {
        if self.ejected_until.take().is_some() {
            self.micros.set(0.0);
            self.probing.set(false);
        }
    }

    /// It was reached and gave no answer of its own.
    pub(crate) fn connection_lost(&self, after: Duration) {
        let now = Instant::now();
        let age = now.duration_since(self.at.get()).as_secs_f64();
        let before = self.micros.get() * (-age / DECAY.as_secs_f64()).exp();
        self.micros.set(before.max(after.max(FAILURE).as_secs_f64() * 1e6));
        self.at.set(now);
        self.successes.set(0);
    }

    pub(crate) fn request_started(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub(crate) fn request_ended(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// An answer began after so long.
    pub(crate) fn answered(&self, after: Duration, now: Instant) {
        let sample = after.as_secs_f64() * 1e6;
        let age = now.duration_since(self.at.get()).as_secs_f64();
        let weight = (-age / DECAY.as_secs_f64()).exp();
        let before = self.micros.get();
        let back = self.ejected_until.take().is_some();
        let next = if back || sample > before { sample } else { before * weight + sample * (1.0 - weight) };
        self.micros.set(next);
        self.at.set(now);
        self.successes.set((self.successes.get() + 1).min(PROVEN_AFTER));
        self.probing.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_one_request_tries_and_the_next_waits_longer() {
        let e = Load::new();
        e.connect_failed(Duration::ZERO);
        e.connect_failed(Duration::ZERO);
        let mut wait = EJECTION;
        for _ in 0..6 {
            let failed = e.at.get();
            assert!(e.is_ejected(failed + wait - FRESH) && !e.is_probe_due(failed + wait - FRESH), "{wait:?}");
            let now = failed + wait;
            assert!(!e.is_ejected(now) && e.is_probe_due(now), "{wait:?}");
            e.probe(now);
            assert!(e.is_ejected(now) && !e.is_probe_due(now), "the others do not try");
            e.connect_failed(Duration::ZERO);
            wait = (wait * 2).min(MAX_EJECTION);
        }
        assert_eq!(wait, MAX_EJECTION);
        let now = e.at.get();
        assert!(e.cost(now) >= 1e6, "a fast failure is no fast answer: {}", e.cost(now));
        e.answered(FRESH, now);
        assert!(!e.is_ejected(now) && !e.is_probe_due(now));
        assert!(e.cost(now) < 2e4, "it starts afresh: {}", e.cost(now));
        e.connect_failed(Duration::from_secs(5));
        e.connected();
        assert!(!e.is_ejected(now) && !e.is_probe_due(now) && e.cost(now) < 2e4);
        e.connect_failed(Duration::from_secs(5));
        assert!(e.cost(e.at.get()) >= 5e6 && !e.is_ejected(e.at.get() + EJECTION));
    }

    #[test]
    fn an_endpoint_is_doubted_until_it_answered_often_and_a_moment_ago() {
        let e = Load::new();
        let now = Instant::now() + FRESH;
        for _ in 0..PROVEN_AFTER {
            assert!(e.is_unproven(now));
            e.answered(FRESH, now);
        }
        assert!(!e.is_unproven(now + FRESH / 2));
        assert!(e.is_unproven(now + FRESH * 2));
        e.connection_lost(FRESH);
        assert!(e.is_unproven(e.at.get()));
    }
}
