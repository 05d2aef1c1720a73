//! What the parts say of themselves: read by `/ready`, `/metrics` and `/config`.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::watch;

/// Everything that readiness depends on besides leaf and configuration, and counts of what went wrong.
#[derive(Debug, Default)]
pub struct Health {
    /// Getting and renewing the leaf.
    pub identity: Part,
    /// The control stream.
    pub control: Part,
    /// Resources that were refused (nacked).
    pub rejected: AtomicU64,
    /// Streams that were given up because their digest diverged or they fell silent.
    pub resyncs: AtomicU64,
    /// Probes carried out with success.
    pub probes_passed: AtomicU64,
    /// Probes carried out without success.
    pub probes_failed: AtomicU64,
    listening: AtomicBool,
    draining: watch::Sender<bool>,
}

/// One part that tries, fails and tries again.
#[derive(Debug, Default)]
pub struct Part {
    failures: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Part {
    /// It works (again).
    pub fn succeeded(&self) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// It failed, and why.
    pub fn failed(&self, error: String) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// Why it does not work now.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Failures since the start.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

impl Health {
    /// The data plane's listeners are open.
    pub fn set_listening(&self) {
        self.listening.store(true, Ordering::Release);
    }

    /// Whether they are.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// The proxy was told to end.
    pub fn set_draining(&self) {
        self.draining.send_replace(true);
    }

    /// Whether it was.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Changes when it is.
    #[must_use]
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }
}
