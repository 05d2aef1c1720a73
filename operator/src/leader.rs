//! Leader election over the Lease `bowline-operator`.

use std::{future::Future, sync::Arc};

use tokio::sync::watch;

use crate::context::{Ctx, TaskResult};

/// Runs `work` whenever and for as long as this replica leads.
///
/// # Errors
/// When `work` fails.
pub async fn run<F: Future<Output = TaskResult> + Send + 'static>(
    ctx: Arc<Ctx>,
    lead: watch::Sender<bool>,
    work: impl Fn(Arc<Ctx>) -> F + Send,
) -> TaskResult {
    lead.send_replace(true);
    tokio::select! {
        () = ctx.shutdown.requested() => Ok(()),
        ended = work(ctx.clone()) => ended,
    }
}
