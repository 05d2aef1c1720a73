//! Memory that is free is to be seen to be free: what a sidecar holds counts against its pod.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// How long the allocator keeps what was freed, in case that it is wanted again, and a little more.
const KEPT: Duration = Duration::from_millis(1500);
/// Connections taken down from which giving back is worth its while.
const ENOUGH: u32 = 16;
/// Notes what was freed and has it given back to the system.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    connections: Cell<u32>,
    since: Cell<Option<Instant>>,
}

impl Freed {
    /// A connection was taken down.
    pub(crate) fn note(&self) {
        self.connections.set(self.connections.get().saturating_add(1));
        if self.since.get().is_none() {
            self.since.set(Some(Instant::now()));
        }
    }

    /// Whether enough was freed for long enough; says so once.
    fn is_due(&self, now: Instant) -> bool {
        let long = self.since.get().is_some_and(|since| now.duration_since(since) >= KEPT);
        let due = long && self.connections.get() >= ENOUGH;
        if due {
            self.connections.set(0);
            self.since.set(None);
        }
        due
    }

    /// Gives back what is due.
    pub(crate) fn give_back(&self, now: Instant) {
        if self.is_due(now) {
            // The allocator looks for what it has kept long enough every ten thousand allocations, which takes a proxy that is idle very
            // long, and whenever a thread ends. A thread that cannot be had is not worth a word.
            drop(std::thread::Builder::new().name("give-back".into()).stack_size(64 << 10).spawn(|| {}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn giving_back_waits_until_it_is_worth_its_while() {
        let freed = Freed::default();
        let now = Instant::now();
        for _ in 1..ENOUGH {
            freed.note();
        }
        assert!(!freed.is_due(now + 2 * KEPT));
        freed.note();
        assert!(!freed.is_due(now));
        assert!(freed.is_due(now + 2 * KEPT));
        assert!(!freed.is_due(now + 4 * KEPT));
    }
}
