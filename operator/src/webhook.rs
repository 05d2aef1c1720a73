//! The webhook's serving certificate and its configuration.

pub mod serving;

use std::sync::Arc;

use crate::context::{Ctx, TaskResult};

/// Keeps both until it is dropped. Leader only.
///
/// # Errors
/// None that ends it.
pub async fn run(ctx: Arc<Ctx>) -> TaskResult {
    ctx.shutdown.requested().await;
    Ok(())
}
