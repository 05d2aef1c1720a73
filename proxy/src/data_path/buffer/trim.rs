//! Memory that was freed is given back to the system (trimmed): what a sidecar holds counts against its pod.

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
pub(crate) struct Trimming {
    connections: Cell<u32>,
    since: Cell<Option<Instant>>,
}

impl Trimming {
    /// A connection was taken down.
    pub(crate) fn connection_closed(&self) {
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

    /// Has what is due given back.
    pub(crate) fn trim(&self, now: Instant) {
        if self.is_due(now) {
            // The allocator looks for what it has kept long enough every ten thousand allocations, which takes a proxy that is idle very
            // long, and whenever a thread ends. A thread that cannot be had is not worth a word.
            drop(std::thread::Builder::new().name("trim".into()).stack_size(64 << 10).spawn(|| {}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn giving_back_waits_until_it_is_worth_its_while() {
        let trimming = Trimming::default();
        let now = Instant::now();
        for _ in 1..ENOUGH {
            trimming.connection_closed();
        }
        assert!(!trimming.is_due(now + 2 * KEPT));
        trimming.connection_closed();
        assert!(!trimming.is_due(now));
        assert!(trimming.is_due(now + 2 * KEPT));
        assert!(!trimming.is_due(now + 4 * KEPT));
    }
}
