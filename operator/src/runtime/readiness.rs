//! What must be up before the process is Ready, each part by a check of its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What must be up before the process is Ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, bool>>>);

impl Readiness {
    /// Adds a part that must be up; it is not until [`ReadinessCheck::set`] says so.
    #[must_use]
    pub fn check(&self, name: &'static str) -> ReadinessCheck {
        let check = ReadinessCheck { name, readiness: self.clone() };
        check.set(false);
        check
    }

    /// Parts that are not up, by name; empty: Ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().filter(|(_, up)| !**up).map(|(name, _)| *name).collect()
    }
}

/// One part's say in [`Readiness`].
#[derive(Debug, Clone)]
pub struct ReadinessCheck {
    name: &'static str,
    readiness: Readiness,
}

impl ReadinessCheck {
    /// Whether the part is up.
    #[must_use]
    pub fn is_set(&self) -> bool {
        let parts = self.readiness.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.get(self.name) == Some(&true)
    }

    /// Says whether the part is up.
    pub fn set(&self, up: bool) {
        let mut parts = self.readiness.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(self.name, up);
    }
}
