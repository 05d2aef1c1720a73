//! The endpoints: `/ready`, `/live`, `/config` and `/metrics` for the admin port, `/metrics` and `/healthz` for the metrics port.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    config_dump::config_dump,
    metrics,
    readiness::{self, ReadinessInputs},
    server::{HttpResponse, response, text},
};
use crate::{
    control::state::State,
    identity::{clock, store::Store},
    telemetry::health::Health,
};

const JSON: &str = "application/json";
/// Prometheus' text format.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the endpoints read.
#[derive(Clone)]
pub struct Admin {
    /// `a` or `b`.
    pub slot: String,
    /// Leaf and bundle.
    pub store: Arc<Store>,
    /// Destinations and policy.
    pub state: Arc<State>,
    /// Counts and errors.
    pub health: Health,
    /// The data plane's metrics, encoded.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Admin {
    /// Responds on the admin port.
    #[must_use]
    pub fn admin(&self, path: &str) -> HttpResponse {
        match path {
            "/ready" => self.ready(),
            "/live" => text(StatusCode::OK, "alive"),
            "/config" => response(StatusCode::OK, JSON, format!("{:#}\n", self.config())),
            "/metrics" => response(StatusCode::OK, METRICS, self.metrics_text()),
            _ => text(StatusCode::NOT_FOUND, "there are /ready, /live, /config and /metrics"),
        }
    }

    /// Responds on the metrics port.
    #[must_use]
    pub fn public(&self, path: &str) -> HttpResponse {
        match path {
            "/metrics" => response(StatusCode::OK, METRICS, self.metrics_text()),
            "/healthz" => text(StatusCode::OK, "alive"),
            _ => text(StatusCode::NOT_FOUND, "there are /metrics and /healthz"),
        }
    }

    fn ready(&self) -> HttpResponse {
        let reasons = readiness::not_ready(&self.readiness_inputs(), clock::unix_seconds());
        let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        response(status, JSON, format!("{}\n", json!({"ready": reasons.is_empty(), "reasons": reasons})))
    }

    fn readiness_inputs(&self) -> ReadinessInputs {
        ReadinessInputs {
            leaf_not_after: self.store.current().map(|c| c.not_after),
            roots: self.store.bundle().map(|b| b.roots.len()),
            policy: self.state.inbound_known(),
            listening: self.health.serving.is_listening(),
            draining: self.health.serving.is_draining(),
            identity_error: self.health.identity.error(),
            control_error: self.health.control.stream.error(),
        }
    }

    fn config(&self) -> Value {
        config_dump(&self.slot, &self.store, &self.state, &self.health)
    }

    fn metrics_text(&self) -> String {
        metrics::encode((self.metrics)(), &self.store, &self.state, &self.health)
    }
}

#[cfg(test)]
mod tests;
