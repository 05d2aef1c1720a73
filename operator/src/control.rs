//! Identity and configuration for proxies, served by every replica.

use std::sync::Arc;

use crate::context::{Ctx, TaskResult};

/// Serves both until shutdown.
///
/// # Errors
/// When the port cannot be opened.
pub async fn serve(ctx: Arc<Ctx>) -> TaskResult {
    ctx.shutdown.requested().await;
    Ok(())
}
