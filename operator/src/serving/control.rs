//! Identity and configuration for proxies, served by every replica on one TLS port; the SNI names the Mesh.
//!
//! [`watch`] → [`view`] → [`index`] (pure) → [`compile`] (pure) → [`subscribers`] → [`stream`]. What proxies acknowledge is kept in
//! [`evidence`].

pub mod compile;
pub mod evidence;
mod hellos;
pub mod index;
pub mod key;
mod latest;
pub mod measure;
pub mod protocol;
pub mod replicas;
pub mod server;
pub mod stream;
pub mod subscribers;
pub mod tls;
pub mod view;
pub mod watch;

pub use evidence::Evidence;
pub use tls::Tls;

use std::sync::Arc;

use kube::{Api, runtime::watcher};
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    cluster::cache::{self, Cache},
    runtime::{context::Ctx, listener, shutdown::TaskResult},
};
use measure::Measures;
use subscribers::Hub;

/// Serves both until shutdown. Opens the port when the first lists are complete: before that, every address would seem unknown.
///
/// # Errors
/// When the port cannot be opened, or a watch ends.
pub async fn serve(ctx: Arc<Ctx>) -> TaskResult {
    let measures = Measures::default();
    measures.register(&ctx.metrics);
    let hub = Hub::new(measures.clone());
    let gate = ctx.readiness.check("control");
    let mut background = JoinSet::new();
    let (services, fill) = Cache::new(
        Api::all(ctx.client.clone()),
        watcher::Config::default(),
        cache::trim_meta,
        ctx.readiness.check("services"),
    );
    background.spawn(fill);
    let (slices, fill) = Cache::new(
        Api::all(ctx.client.clone()),
        watcher::Config::default(),
        cache::trim_meta,
        ctx.readiness.check("endpointslices"),
    );
    background.spawn(fill);
    let (filled, first) = oneshot::channel();
    background.spawn(watch::run(Arc::clone(&ctx), services, slices, hub.clone(), filled));
    let serving = async {
        // An error means that the task is gone, which the other branch reports.
        let _ = first.await;
        let listener = listener::open(ctx.config.control_port).await?;
        gate.set(true);
        server::run(Arc::clone(&ctx), hub, measures, listener).await;
        Ok(())
    };
    let mut serving = std::pin::pin!(serving);
    loop {
        tokio::select! {
            served = serving.as_mut() => return served,
            Some(ended) = background.join_next() => match ended {
                // The streams have yet to be told.
                Ok(Ok(())) if ctx.shutdown.is_requested() => {}
                Ok(Ok(())) => return Err("a watch of the control plane ended by itself".into()),
                Ok(Err(error)) => return Err(error),
                Err(panic) => return Err(panic.into()),
            },
            () = ctx.shutdown.requested(), if !gate.is_set() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
