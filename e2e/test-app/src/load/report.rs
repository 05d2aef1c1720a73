//! What became of the load: counts, kinds of failure, and a histogram of latencies.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Buckets per doubling: latencies are told within 5 %.
const STEPS: f64 = 14.0;
/// From 1 µs to over an hour.
const BUCKETS: usize = 14 * 32;
/// Different kinds of failure that are kept apart; the rest is `other`.
const MAX_KINDS: usize = 30;

/// Counters of one load.
#[derive(Debug)]
pub(crate) struct Report {
    start: Instant,
    sent: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    fresh: AtomicU64,
    held: AtomicU64,
    lost: AtomicU64,
    events: AtomicU64,
    kinds: Mutex<BTreeMap<String, u64>>,
    buckets: Vec<AtomicU64>,
    /// Milliseconds after the start of the last failure; 0 = none.
    last_failure_ms: AtomicU64,
}

impl Default for Report {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            start: Instant::now(),
            sent: zero(),
            succeeded: zero(),
            failed: zero(),
            fresh: zero(),
            held: zero(),
            lost: zero(),
            events: zero(),
            kinds: Mutex::default(),
            buckets: (0..BUCKETS).map(|_| zero()).collect(),
            last_failure_ms: zero(),
        }
    }
}

impl Report {
    /// A request was sent.
    pub(crate) fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// It goes over a connection of its own.
    pub(crate) fn fresh(&self) {
        self.fresh.fetch_add(1, Ordering::Relaxed);
    }

    /// It was answered well, so long after it was due.
    pub(crate) fn succeeded(&self, after: Duration) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        let bucket = ((after.as_micros().max(1) as f64).log2() * STEPS) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// It was not.
    pub(crate) fn failed(&self, kind: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.count(kind);
    }

    /// A stream is up.
    pub(crate) fn stream_held(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream that was up broke, stalled, or lost or repeated an event.
    pub(crate) fn stream_lost(&self, kind: &str) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.count(kind);
    }

    /// An event came over a stream.
    pub(crate) fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, kind: &str) {
        self.last_failure_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kinds.len() < MAX_KINDS || kinds.contains_key(kind);
        *kinds.entry(if known { kind.to_owned() } else { "other".to_owned() }).or_default() += 1;
    }

    /// Milliseconds below which the given share of the successful requests stayed.
    fn quantile(&self, share: f64) -> f64 {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let rank = (counts.iter().sum::<u64>() as f64 * share).ceil();
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen as f64 >= rank {
                return ((bucket + 1) as f64 / STEPS).exp2() / 1000.0;
            }
        }
        0.0
    }

    /// As it is printed.
    pub(crate) fn json(&self) -> Value {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        json!({
            "sent": get(&self.sent), "succeeded": get(&self.succeeded), "failed": get(&self.failed),
            "fresh_connections": get(&self.fresh),
            "streams_held": get(&self.held), "streams_lost": get(&self.lost), "events": get(&self.events),
            "p50_ms": self.quantile(0.5), "p90_ms": self.quantile(0.9), "p99_ms": self.quantile(0.99),
            "errors": &*self.kinds.lock().unwrap_or_else(PoisonError::into_inner),
            "last_failure_seconds": get(&self.last_failure_ms) as f64 / 1000.0,
            "seconds": self.start.elapsed().as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let report = Report::default();
        for ms in 1..=100 {
            report.succeeded(Duration::from_millis(ms));
        }
        for (share, ms) in [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0)] {
            let told = report.quantile(share);
            assert!((told - ms).abs() / ms < 0.06, "{share}: {told} instead of {ms}");
        }
    }

    #[test]
    fn kinds_of_failure_are_bounded() {
        let report = Report::default();
        for i in 0..100 {
            report.failed(&format!("kind {i}"));
        }
        let json = report.json();
        assert_eq!(json["failed"], 100);
        assert_eq!(json["errors"].as_object().unwrap().len(), MAX_KINDS + 1);
        assert_eq!(json["errors"]["other"], 70);
    }
}
