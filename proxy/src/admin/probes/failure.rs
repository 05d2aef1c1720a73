//! Why a probe failed, as the kubelet shows it in an event.

/// Why a probe failed: one line for the kubelet's event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct ProbeFailure(String);

impl ProbeFailure {
    pub(super) fn new(why: impl Into<String>) -> Self {
        let line: String = why.into().chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
        Self(line)
    }
}
