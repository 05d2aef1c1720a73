//! What every stream is held with, whatever its protocol.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Interval};

use super::report::Report;

/// After the load was told to stop, every stream has ended so long after its silence would have.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// What a stream is held with.
pub(super) struct With {
    /// Where it reports to.
    pub(super) report: Arc<Report>,
    /// Whether it shall end.
    pub(super) stop: watch::Receiver<bool>,
    /// Silence after which it counts as lost; events come ten times a second.
    pub(super) silence: Duration,
}

/// Ten times a second.
pub(super) fn pace() -> Interval {
    tokio::time::interval(Duration::from_millis(100))
}
