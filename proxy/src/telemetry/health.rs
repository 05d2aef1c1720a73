//! What the parts say of themselves: read by `/ready`, `/metrics` and `/config`.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::watch;

/// All of it: for the admin endpoints, which read it. Each part that writes is given its own alone.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Getting and renewing the leaf.
    pub identity: Arc<ComponentHealth>,
    /// The control stream.
    pub control: Arc<ControlHealth>,
    /// Probes of the application.
    pub probes: Arc<ProbeCounts>,
    /// Whether this slot takes connections.
    pub serving: Arc<ServingStatus>,
}

/// One part that tries, fails and tries again: failures since the start, and the last error while it lasts.
#[derive(Debug, Default)]
pub struct ComponentHealth {
    failures: AtomicU64,
    error: Mutex<Option<String>>,
}

impl ComponentHealth {
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

/// The control stream.
#[derive(Debug, Default)]
pub struct ControlHealth {
    /// Opening it and keeping it open.
    pub stream: ComponentHealth,
    /// Resources that were refused (nacked).
    pub rejected: AtomicU64,
    /// Streams that were given up because their digest diverged or they fell silent.
    pub resyncs: AtomicU64,
}

/// Probes that were carried out.
#[derive(Debug, Default)]
pub struct ProbeCounts {
    /// With success.
    pub passed: AtomicU64,
    /// Without.
    pub failed: AtomicU64,
}

/// Whether this slot takes connections.
#[derive(Debug, Default)]
pub struct ServingStatus {
    listening: AtomicBool,
    draining: watch::Sender<bool>,
}

impl ServingStatus {
    /// The data plane's listeners are open.
    pub fn set_listening(&self) {
        self.listening.store(true, Ordering::Release);
    }

    /// Whether they are.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// The proxy was asked to terminate.
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
