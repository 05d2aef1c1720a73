//! Carries out the probes and lifecycle hooks of the pod's containers on the kubelet's behalf: the injector points them here,
//! so that they work whatever the application's ports demand of their callers. Meaning as in the kubelet.

use std::{collections::HashMap, net::IpAddr, sync::Arc, sync::atomic::Ordering, time::Duration};

use http::StatusCode;
use tokio::sync::Semaphore;

use crate::{
    admin::server::{HttpResponse, text},
    contract::probe::{Probe, ProbeAction},
    telemetry::health::ProbeCounts,
};

mod connect;
mod failure;
mod grpc;
mod http_get;

use connect::connect;
use failure::ProbeFailure;

/// Probes under way at once; more are answered 503.
const MAX_IN_FLIGHT: usize = 64;
/// Timeout at most and at least.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// All probes of a pod.
#[derive(Debug)]
pub struct Probes {
    by_id: HashMap<String, Probe>,
    pod: IpAddr,
    in_flight: Semaphore,
    counts: Arc<ProbeCounts>,
}

impl Probes {
    /// For a pod with the address `pod`.
    #[must_use]
    pub fn new(probes: Vec<Probe>, pod: IpAddr, counts: Arc<ProbeCounts>) -> Self {
        let by_id = probes.into_iter().map(|p| (p.id.clone(), p)).collect();
        Self { by_id, pod, in_flight: Semaphore::new(MAX_IN_FLIGHT), counts }
    }

    /// Answers `GET /probe/ID`: 200, or 503 and why; 404 for what the injector did not give us.
    pub async fn answer(&self, path: &str) -> HttpResponse {
        let id = path.strip_prefix("/probe/").unwrap_or_default();
        let Some(probe) = self.by_id.get(id) else {
            return text(StatusCode::NOT_FOUND, "no container of this pod has such a probe");
        };
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "too many probes are under way");
        };
        let timeout = Duration::from_secs(probe.timeout_seconds.into()).clamp(TIMEOUTS.0, TIMEOUTS.1);
        let carried_out = tokio::time::timeout(timeout, self.carry_out(probe));
        let outcome = carried_out
            .await
            .unwrap_or_else(|_| Err(ProbeFailure::new(format!("no answer within {} s", timeout.as_secs()))));
        match outcome {
            Ok(done) => {
                self.counts.passed.fetch_add(1, Ordering::Relaxed);
                text(StatusCode::OK, done)
            }
            Err(failure) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(probe = name(id), error = %failure, "a probe failed");
                text(StatusCode::SERVICE_UNAVAILABLE, failure.to_string())
            }
        }
    }

    async fn carry_out(&self, probe: &Probe) -> Result<String, ProbeFailure> {
        let host = |given: &Option<String>| match given.as_deref() {
            None | Some("") => self.pod.to_string(),
            Some(host) => host.to_owned(),
        };
        match &probe.action {
            ProbeAction::TcpSocket { host: given, port } => {
                let _connection = connect(&host(given), *port).await?;
                Ok(format!("port {port} accepts connections"))
            }
            ProbeAction::Grpc { port, service } => grpc::check(&self.pod.to_string(), *port, service).await,
            ProbeAction::HttpGet { host: given, port, path, https, headers } => {
                let target = http_get::ProbeUrl { https: *https, host: host(given), port: *port, path: path.clone() };
                let status = http_get::get(target, headers).await?;
                // The kubelet takes any answer to a hook for a success.
                if is_hook(&probe.id) || (200..400).contains(&status) {
                    Ok(format!("HTTP status {status}"))
                } else {
                    Err(ProbeFailure::new(format!("HTTP probe failed with statuscode: {status}")))
                }
            }
        }
    }
}

/// What of an id may be logged: its key, if it has one, is known to those alone who may read the pod.
fn name(id: &str) -> &str {
    id.rmatch_indices('/').nth(1).map_or(id, |(at, _)| &id[at + 1..])
}

fn is_hook(id: &str) -> bool {
    matches!(id.rsplit('/').next(), Some("postStart" | "preStop"))
}

#[cfg(test)]
mod tests;
