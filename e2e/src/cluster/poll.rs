//! Waits for what a cluster will show sooner or later.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Between two attempts.
const POLL: Duration = Duration::from_millis(250);

/// Tries until `attempt` succeeds and returns its result; the error quotes the last failure.
///
/// # Errors
/// When it does not within `limit`.
pub async fn poll<T, F: Future<Output = Result<T>>>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let failed = match tokio::time::timeout_at(deadline, attempt()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(e)) => e,
            Err(_) => bail!("{what}: no answer for {} s", limit.as_secs()),
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(failed).with_context(|| format!("{what} after {} s", limit.as_secs()));
        }
        tokio::time::sleep(POLL).await;
    }
}
