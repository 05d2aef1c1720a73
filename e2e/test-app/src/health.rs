//! What the server says of its own health, protocol by protocol; flipped through the control port.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Shared state of a `serve` process.
#[derive(Debug)]
pub(crate) struct Health {
    http: AtomicBool,
    grpc: AtomicBool,
    tcp: AtomicBool,
    exec: AtomicBool,
    /// How often which path of `/hook/` was called.
    hooks: Mutex<BTreeMap<String, u64>>,
}

impl Default for Health {
    fn default() -> Self {
        let yes = || AtomicBool::new(true);
        Self { http: yes(), grpc: yes(), tcp: yes(), exec: yes(), hooks: Mutex::default() }
    }
}

impl Health {
    /// The switch of a protocol: `http`, `grpc`, `tcp` or `exec`.
    pub(crate) fn switch(&self, protocol: &str) -> Option<&AtomicBool> {
        match protocol {
            "http" => Some(&self.http),
            "grpc" => Some(&self.grpc),
            "tcp" => Some(&self.tcp),
            "exec" => Some(&self.exec),
            _ => None,
        }
    }

    /// Whether a protocol is healthy; an unknown one is not.
    pub(crate) fn is_healthy(&self, protocol: &str) -> bool {
        self.switch(protocol).is_some_and(|s| s.load(Ordering::Relaxed))
    }

    /// Counts a call of a lifecycle hook.
    pub(crate) fn hook_called(&self, name: &str) {
        *self.hooks.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default() += 1;
    }

    /// Calls of lifecycle hooks so far.
    pub(crate) fn hooks(&self) -> BTreeMap<String, u64> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
