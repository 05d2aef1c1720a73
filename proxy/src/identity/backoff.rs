//! How long to wait before trying again: exponential with full jitter, so that many proxies never come back in step.

use std::time::Duration;

/// Waits between attempts: each is drawn evenly from nothing up to a ceiling that doubles from `first` to `most`.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts afresh.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// How long to wait after another failure.
    pub fn next_wait(&mut self) -> Duration {
        let wait = wait(self.first, self.most, self.failures, rand::random());
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The wait after `failures` earlier failures for an evenly drawn `unit` of 0 to 1; never less than a tenth of `first`, lest
/// a refused connection be retried in a tight loop.
#[must_use]
pub fn wait(first: Duration, most: Duration, failures: u32, unit: f64) -> Duration {
    let ceiling = first.saturating_mul(2_u32.saturating_pow(failures.min(31))).min(most);
    ceiling.mul_f64(unit.clamp(0.0, 1.0)).max(first / 10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(15);

    #[test]
    fn the_ceiling_doubles_up_to_the_most() {
        let ceilings: Vec<_> = (0..9).map(|n| wait(FIRST, MOST, n, 1.0).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 15000]);
        assert_eq!(wait(FIRST, MOST, u32::MAX, 1.0), MOST);
    }

    #[test]
    fn success_starts_afresh() {
        let mut backoff = Backoff::new(FIRST, MOST);
        for _ in 0..50 {
            assert!(backoff.next_wait() <= MOST);
        }
        backoff.reset();
        assert!(backoff.next_wait() <= FIRST);
    }

    proptest! {
        #[test]
        fn every_wait_is_within_bounds(failures: u32, unit in 0.0..1.0) {
            let wait = wait(FIRST, MOST, failures, unit);
            prop_assert!(wait >= FIRST / 10 && wait <= MOST);
        }
    }
}
