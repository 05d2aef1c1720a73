//! What is measured of identity.

use prometheus_client::metrics::{
    counter::Counter,
    family::Family,
    histogram::{Histogram, exponential_buckets},
};

use crate::{
    runtime::listener::ReasonLabel,
    telemetry::{MeshLabel, Metrics},
};

/// Handles of all metrics; cheap to clone.
#[derive(Debug, Clone)]
pub struct IdentityMetrics {
    /// Signing requests by outcome.
    pub requests: Family<ReasonLabel, Counter>,
    /// Absolute difference of a caller's clock and ours, in seconds.
    pub skew_seconds: Histogram,
    /// Leaves signed by this replica.
    pub leaves_signed: Family<MeshLabel, Counter>,
}

impl IdentityMetrics {
    /// Adds them to the exposition.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let identity = Self {
            requests: Family::default(),
            skew_seconds: Histogram::new(exponential_buckets(0.05, 3.0, 10)),
            leaves_signed: metrics.ca_leaves_signed.clone(),
        };
        metrics.register(|r| {
            r.register("bowline_identity_requests", "Signing requests by outcome", identity.requests.clone());
            r.register(
                "bowline_identity_clock_skew_seconds",
                "Absolute difference between callers' clocks and this one",
                identity.skew_seconds.clone(),
            );
        });
        identity
    }

    /// Counts one request.
    pub fn count(&self, outcome: &'static str) {
        self.requests.get_or_create(&ReasonLabel { reason: outcome }).inc();
    }
}
