//! `/metrics`, `/livez` and `/readyz`, in plain HTTP.

use axum::{Router, extract::State, http::StatusCode, routing::get};

use crate::{
    runtime::{
        listener,
        readiness::Readiness,
        shutdown::{Shutdown, TaskResult},
    },
    telemetry::Metrics,
};

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    /// Of every part of the process.
    pub metrics: Metrics,
    /// What must be up before it is Ready.
    pub readiness: Readiness,
    /// After it was asked to end it is not Ready any more.
    pub shutdown: Shutdown,
}

impl Admin {
    /// Serves until everything else ends: that this replica is not Ready any more is to be heard from it.
    ///
    /// # Errors
    /// When the port cannot be opened.
    pub async fn serve(self, port: u16) -> TaskResult {
        let listener = listener::open(port).await?;
        let shutdown = self.shutdown.clone();
        axum::serve(listener, self.router()).with_graceful_shutdown(async move { shutdown.over().await }).await?;
        Ok(())
    }

    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(|State(admin): State<Self>| async move { exposition(&admin.metrics) }))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(|State(admin): State<Self>| async move { readyz(&admin.readiness, &admin.shutdown) }))
            .with_state(self)
    }
}

fn exposition(metrics: &Metrics) -> (StatusCode, [(&'static str, &'static str); 1], String) {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.encode() {
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
