//! Admission of pods, served by every replica.

use std::sync::Arc;

use crate::context::{Ctx, TaskResult};

/// Serves admission reviews until shutdown.
///
/// # Errors
/// When the port cannot be opened.
pub async fn serve(ctx: Arc<Ctx>) -> TaskResult {
    ctx.shutdown.requested().await;
    Ok(())
}

/// Finds pods that should carry a sidecar and do not; leader only.
pub mod repair {
    use super::{Arc, Ctx, TaskResult};

    /// Runs until it is dropped.
    ///
    /// # Errors
    /// None yet.
    pub async fn run(ctx: Arc<Ctx>) -> TaskResult {
        ctx.shutdown.requested().await;
        Ok(())
    }
}
