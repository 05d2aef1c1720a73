//! What became of a request so far.

use crate::data_path::balance::attempted::Attempted;

/// See the module.
#[derive(Default)]
pub(crate) struct Attempts {
    /// Endpoints that failed for it.
    pub(super) failed: Attempted,
    /// An application may have seen it.
    pub(super) is_seen: bool,
}

impl Attempts {
    /// Whether the next attempt is the first.
    pub(super) fn is_first(&self) -> bool {
        self.failed.is_empty()
    }
}
