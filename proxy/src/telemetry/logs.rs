//! Structured logs: one JSON object a line on standard error.

use tracing_subscriber::EnvFilter;

use crate::contract::bootstrap::env;

/// Starts logging as `BOWLINE_LOG` filters it, `info` by default; a filter that cannot be read is logged and not used.
pub fn start(var: impl Fn(&str) -> Option<String>) {
    let asked = var(env::LOG).filter(|f| !f.is_empty());
    let parsed = asked.as_deref().map(EnvFilter::try_new);
    let (filter, wrong) = match parsed {
        Some(Ok(filter)) => (filter, None),
        Some(Err(e)) => (EnvFilter::new("info"), Some(e)),
        None => (EnvFilter::new("info"), None),
    };
    let started = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
    if let Some(e) = wrong {
        tracing::warn!(error = %e, "{} is no filter; info is used", env::LOG);
    }
    // Fails only when somebody started it before; then it runs.
    drop(started);
}
