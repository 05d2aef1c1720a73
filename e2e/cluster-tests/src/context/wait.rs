//! Waiting for a condition, with a deadline and without guessing.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::connect::Context;

/// Between two attempts.
const POLL: Duration = Duration::from_millis(100);

impl Context {
    /// Tries until `attempt` succeeds and returns its result; `what` tells in an error what did not happen.
    ///
    /// # Errors
    /// After `limit`: `what`, and how the last attempt failed.
    pub async fn eventually<T, F>(&self, limit: Duration, what: &str, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let deadline = Instant::now() + limit;
        let mut last = None;
        loop {
            match timeout_at(deadline, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(e)) => last = Some(e),
                Err(_) => {
                    let last = last.unwrap_or_else(|| anyhow::anyhow!("the first attempt got no answer"));
                    return Err(last).with_context(|| format!("{what} within {} s", limit.as_secs_f32()));
                }
            }
            // The deadline is checked by the next attempt.
            sleep(POLL.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Watches an object until it matches `condition` and returns it as it then is (`None`: it does not exist).
    ///
    /// # Errors
    /// After `limit`, or when the watch fails.
    pub async fn await_condition<K>(
        &self,
        api: Api<K>,
        name: &str,
        what: &str,
        limit: Duration,
        condition: impl Condition<K>,
    ) -> Result<Option<K>>
    where
        K: Resource + Clone + Debug + Send + DeserializeOwned + 'static,
    {
        match timeout(limit, await_condition(api, name, condition)).await {
            Ok(found) => found.with_context(|| format!("{name} cannot be watched")),
            Err(_) => bail!("{name}: {what} did not become true within {} s", limit.as_secs_f32()),
        }
    }
}
