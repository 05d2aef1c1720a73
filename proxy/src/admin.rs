//! What the proxy tells of itself: `/ready`, `/live`, `/config` and `/metrics` on loopback, `/metrics` and `/healthz` on the pod's
//! address.

use std::{sync::Arc, sync::atomic::Ordering};

use data_encoding::HEXLOWER;
use http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    admin::server::{Answer, answer, text},
    contract::{
        bootstrap::VERSION,
        resource::{InboundPolicy, Service, Workload},
    },
    control::state::{State, Target},
    identity::{
        clock,
        store::{Current, Store},
    },
    telemetry::health::Health,
};

pub mod probes;
mod process;
pub mod server;

const JSON: &str = "application/json";
/// Prometheus' text format.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is told of.
#[derive(Clone)]
pub struct Admin {
    /// `a` or `b`.
    pub slot: String,
    /// Leaf and bundle.
    pub store: Arc<Store>,
    /// Destinations and policy.
    pub state: Arc<State>,
    /// Counts and errors.
    pub health: Arc<Health>,
    /// The data plane's metrics, encoded.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// Why a proxy is not ready.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NotReady {
    /// One word: `leaf`, `bundle`, `policy`, `listeners`, `draining`.
    pub what: &'static str,
    /// What is missing and what was tried last.
    pub why: String,
}

/// What readiness depends on.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Last second of the leaf's validity (Unix time), if there is one.
    pub leaf_not_after: Option<i64>,
    /// Number of roots trusted, if a bundle is known.
    pub roots: Option<usize>,
    /// Whether the inbound policy is known.
    pub policy: bool,
    /// Whether the data plane's listeners are open.
    pub listening: bool,
    /// Whether the proxy was told to end.
    pub draining: bool,
    /// Last error of the identity client.
    pub identity_error: Option<String>,
    /// Last error of the control stream.
    pub control_error: Option<String>,
}

/// Judges readiness at `now` (Unix seconds); nothing missing means ready.
#[must_use]
pub fn judge(seen: &Observed, now: i64) -> Vec<NotReady> {
    let mut reasons = Vec::new();
    let mut missing = |what, why: String| reasons.push(NotReady { what, why });
    let tried = |error: &Option<String>| error.clone().unwrap_or_else(|| "it is being asked for".into());
    match seen.leaf_not_after {
        None => missing("leaf", format!("there is no leaf yet: {}", tried(&seen.identity_error))),
        Some(end) if end < now => {
            missing("leaf", format!("the leaf expired {} s ago: {}", now - end, tried(&seen.identity_error)));
        }
        Some(_) => {}
    }
    match seen.roots {
        None => missing("bundle", format!("there is no trust bundle yet: {}", tried(&seen.identity_error))),
        Some(0) => missing("bundle", "the trust bundle is empty: it trusts nobody".into()),
        Some(_) => {}
    }
    if !seen.policy {
        missing("policy", format!("the inbound policy is not known yet: {}", tried(&seen.control_error)));
    }
    if !seen.listening {
        missing("listeners", "the ports of the proxy are not open yet".into());
    }
    if seen.draining {
        missing("draining", "the proxy was told to end".into());
    }
    reasons
}

impl Admin {
    /// Answers on the admin port.
    #[must_use]
    pub fn admin(&self, path: &str) -> Answer {
        match path {
            "/ready" => self.ready(),
            "/live" => text(StatusCode::OK, "alive"),
            "/config" => answer(StatusCode::OK, JSON, format!("{:#}\n", self.config())),
            "/metrics" => answer(StatusCode::OK, METRICS, self.metrics_text()),
            _ => text(StatusCode::NOT_FOUND, "there are /ready, /live, /config and /metrics"),
        }
    }

    /// Answers on the metrics port.
    #[must_use]
    pub fn public(&self, path: &str) -> Answer {
        match path {
            "/metrics" => answer(StatusCode::OK, METRICS, self.metrics_text()),
            "/healthz" => text(StatusCode::OK, "alive"),
            _ => text(StatusCode::NOT_FOUND, "there are /metrics and /healthz"),
        }
    }

    fn ready(&self) -> Answer {
        let reasons = judge(&self.observe(), clock::unix_seconds());
        let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        answer(status, JSON, format!("{}\n", json!({"ready": reasons.is_empty(), "reasons": reasons})))
    }

    fn observe(&self) -> Observed {
        Observed {
            leaf_not_after: self.store.current().map(|c| c.not_after),
            roots: self.store.bundle().map(|b| b.roots.len()),
            policy: self.state.inbound_known(),
            listening: self.health.is_listening(),
            draining: self.health.is_draining(),
            identity_error: self.health.identity.error(),
            control_error: self.health.control.error(),
        }
    }

    /// What holds now, for people; no secret is in it.
    fn config(&self) -> Value {
        let current = self.store.current();
        let destinations: serde_json::Map<_, _> =
            self.state.snapshot().into_iter().map(|(ip, target)| (ip.to_string(), target_json(&target))).collect();
        json!({
            "version": VERSION,
            "slot": self.slot,
            "role": "serving",
            "identity": current.as_deref().map(identity_json),
            "identityError": self.health.identity.error(),
            "control": {
                "connected": self.state.is_connected(),
                "error": self.health.control.error(),
                "rejected": self.health.rejected.load(Ordering::Relaxed),
                "resyncs": self.health.resyncs.load(Ordering::Relaxed),
            },
            "inboundPolicy": self.state.inbound_known().then(|| policy_json(&self.state.inbound_policy())),
            "destinations": destinations,
        })
    }

    fn metrics_text(&self) -> String {
        let mut out = (self.metrics)();
        // The encoder ends with a mark after which nothing may come.
        if let Some(end) = out.rfind("# EOF") {
            out.truncate(end);
        }
        let mut put = |name: &str, kind: &str, help: &str, value: String| {
            // OpenMetrics: a counter's samples end in _total, its name does not.
            let family = name.strip_suffix("_total").unwrap_or(name);
            out.push_str(&format!("# HELP {family} {help}.\n# TYPE {family} {kind}\n{name} {value}\n"));
        };
        if let Some(c) = self.store.current() {
            let end = c.not_after.to_string();
            put("bowline_leaf_not_after_seconds", "gauge", "End of the leaf's validity, Unix time", end);
        }
        let sequence = self.store.bundle().map_or(0, |b| b.sequence).to_string();
        put("bowline_bundle_sequence", "gauge", "Sequence of the trust bundle in use", sequence);
        let flag = |on: bool| u8::from(on).to_string();
        put("bowline_control_connected", "gauge", "Whether the control stream is up", flag(self.state.is_connected()));
        put("bowline_serving", "gauge", "Whether this slot serves the pod", flag(!self.health.is_draining()));
        let h = &self.health;
        for (name, help, value) in [
            ("bowline_identity_failures_total", "Failed attempts to get a leaf", h.identity.failures()),
            ("bowline_control_failures_total", "Control streams that failed or ended", h.control.failures()),
            ("bowline_control_rejected_total", "Resources refused", h.rejected.load(Ordering::Relaxed)),
            ("bowline_control_resyncs_total", "Streams given up as stale", h.resyncs.load(Ordering::Relaxed)),
            ("bowline_addresses_evicted_total", "Addresses that made room for others", self.state.evicted()),
            ("bowline_probes_passed_total", "Probes that succeeded", h.probes_passed.load(Ordering::Relaxed)),
            ("bowline_probes_failed_total", "Probes that failed", h.probes_failed.load(Ordering::Relaxed)),
        ] {
            put(name, "counter", help, value.to_string());
        }
        process::write(&mut put);
        out.push_str("# EOF\n");
        out
    }
}

fn identity_json(current: &Current) -> Value {
    let roots: Vec<String> = current.bundle.roots.iter().map(|r| HEXLOWER.encode(&Sha256::digest(r))).collect();
    json!({
        "id": current.id.as_str(),
        "notAfter": current.not_after,
        "issuerSha256": HEXLOWER.encode(&current.issuer_sha256),
        "generation": current.generation,
        "bundle": {"sequence": current.bundle.sequence, "rootsSha256": roots},
    })
}

fn policy_json(policy: &InboundPolicy) -> Value {
    let ports: serde_json::Map<_, _> =
        policy.ports.iter().map(|(port, protocol)| (port.to_string(), json!(protocol.as_str_name()))).collect();
    json!({"mtls": if policy.strict { "STRICT" } else { "PERMISSIVE" }, "ports": ports})
}

fn target_json(target: &Target) -> Value {
    match target {
        Target::Outside => json!("outside"),
        Target::Workload(w) => workload_json(w),
        Target::Service(key, watch) => {
            let service = watch.borrow().clone();
            json!({"service": key.to_string(), "ports": service.as_deref().map(service_json)})
        }
    }
}

fn workload_json(w: &Workload) -> Value {
    json!({
        "workload": format!("{}/{}", w.namespace, w.pod),
        "identity": w.identity.as_ref().map(|i| i.as_str()),
    })
}

fn service_json(service: &Service) -> Value {
    let ports = service.ports.iter().map(|p| {
        let endpoints: Vec<Value> = p
            .endpoints
            .iter()
            .map(|e| {
                json!({
                    "address": std::net::SocketAddr::new(e.ip, e.port).to_string(),
                    "identity": e.identity.as_ref().map(|i| i.as_str()),
                    "pod": e.pod, "zone": e.zone, "forZones": e.for_zones, "forNodes": e.for_nodes,
                    "draining": e.draining,
                })
            })
            .collect();
        (p.port.to_string(), json!({"name": p.name, "protocol": p.protocol.as_str_name(), "endpoints": endpoints}))
    });
    Value::Object(ports.collect())
}

#[cfg(test)]
mod tests;
