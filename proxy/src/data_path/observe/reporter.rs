//! What a worker counts and logs.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    data_path::failure::Failure,
    telemetry::metrics::{Direction, Metrics},
};

/// Least time between two lines of log about refusals.
const QUIET: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Reporter {
    pub(crate) metrics: Arc<Metrics>,
    logged: Cell<Option<Instant>>,
    unlogged: Cell<u64>,
}

impl Reporter {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, logged: Cell::new(None), unlogged: Cell::new(0) }
    }

    /// Counts a refusal and, not too often, says why.
    pub(crate) fn refused(&self, direction: Direction, failure: &Failure) {
        self.metrics.refused(direction, failure.reason);
        let now = Instant::now();
        if self.logged.get().is_some_and(|at| now.duration_since(at) < QUIET) {
            self.unlogged.set(self.unlogged.get() + 1);
            return;
        }
        self.logged.set(Some(now));
        let more = self.unlogged.replace(0);
        tracing::warn!(
            direction = direction.as_str(),
            reason = failure.reason.as_str(),
            detail = &*failure.detail,
            unlogged_before = more,
            "refused"
        );
    }
}
