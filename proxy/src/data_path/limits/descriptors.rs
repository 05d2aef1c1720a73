//! File descriptors: how many this process may open, and how many connections they suffice for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not connections' (control, probes, metrics, the program's own).
const OTHER_DESCRIPTORS: u64 = 192;
/// Descriptors that a connection takes: its own and that of the far end.
const PER_CONNECTION: u64 = 2;
/// More are never asked for.
const MAX_DESCRIPTORS: u64 = 1 << 20;

/// Lets this process open as many files as it may: container runtimes leave the soft limit at 1,024.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    if limit.current.is_some_and(|current| current < most)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Connections for which there are descriptors.
pub(crate) fn connections() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(MAX_DESCRIPTORS);
    let connections = descriptors.saturating_sub(OTHER_DESCRIPTORS).max(PER_CONNECTION) / PER_CONNECTION;
    usize::try_from(connections).unwrap_or(usize::MAX)
}
