//! `/metrics`, `/livez` and `/readyz`, in plain HTTP.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};

use crate::runtime::{
    context::Ctx,
    readiness::Readiness,
    shutdown::{Shutdown, TaskResult},
};

/// Serves until everything else ends: that this replica is not Ready any more is to be heard from it.
///
/// # Errors
/// When the port cannot be opened.
pub async fn serve(ctx: Arc<Ctx>) -> TaskResult {
    let listener = listen(ctx.config.admin_port).await?;
    let shutdown = ctx.shutdown.clone();
    axum::serve(listener, router(ctx)).with_graceful_shutdown(async move { shutdown.over().await }).await?;
    Ok(())
}

/// A listener on every address; IPv4 only where the node has no IPv6.
async fn listen(port: u16) -> std::io::Result<tokio::net::TcpListener> {
    match tokio::net::TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => tokio::net::TcpListener::bind(("0.0.0.0", port)).await,
    }
}

fn router(ctx: Arc<Ctx>) -> Router {
    Router::new()
        .route("/metrics", get(|State(ctx): State<Arc<Ctx>>| async move { metrics(&ctx) }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|State(ctx): State<Arc<Ctx>>| async move { readyz(&ctx.readiness, &ctx.shutdown) }))
        .with_state(ctx)
}

fn metrics(ctx: &Ctx) -> (StatusCode, [(&'static str, &'static str); 1], String) {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match ctx.metrics.encode() {
        Ok(text) => (StatusCode::OK, [("content-type", OPEN_METRICS)], text),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], e.to_string()),
    }
}

fn readyz(readiness: &Readiness, shutdown: &Shutdown) -> (StatusCode, String) {
    let missing = readiness.missing();
    if shutdown.is_requested() {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".into())
    } else if missing.is_empty() {
        (StatusCode::OK, "ok\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_part_is_up() {
        let readiness = Readiness::default();
        let (ask, shutdown) = Shutdown::new();
        let meshes = readiness.check("meshes");
        let webhook = readiness.check("webhook");
        meshes.set(true);
        assert_eq!(
            readyz(&readiness, &shutdown),
            (StatusCode::SERVICE_UNAVAILABLE, "waiting for webhook\n".to_owned())
        );
        webhook.set(true);
        assert_eq!(readyz(&readiness, &shutdown).0, StatusCode::OK);
        ask.send(true).unwrap();
        assert_eq!(readyz(&readiness, &shutdown).0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
