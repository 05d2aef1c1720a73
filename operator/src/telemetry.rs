//! Logs as JSON lines, metrics for Prometheus. Reconcilers use controller-runtime's metric names, so that stock dashboards work.

mod rotation;

pub use rotation::{RotationMetrics, StepLabels};

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Starts logging.
pub fn init_log(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).init();
}

/// Labels `controller` and `result`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    controller: &'static str,
    result: &'static str,
}

/// Label `controller`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabel {
    controller: &'static str,
}

/// Label `name`, as client-go's workqueue has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    name: &'static str,
}

/// Label `mesh`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MeshLabel {
    /// Name of the Mesh.
    pub mesh: String,
}

/// Labels `mesh`, `kind` (`root`, `issuer`) and `fingerprint`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AuthorityLabels {
    /// Name of the Mesh.
    pub mesh: String,
    /// `root` or `issuer`.
    pub kind: &'static str,
    /// First 16 hex digits of the certificate's SHA-256.
    pub fingerprint: String,
}

/// How one reconcile ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing left to do.
    Success,
    /// To be looked at again after a while.
    RequeueAfter,
    /// Failed; it is tried again.
    Error,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::RequeueAfter => "requeue_after",
            Self::Error => "error",
        }
    }
}

/// Every metric of the operator; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    reconciles: Family<ReconcileLabels, Counter>,
    errors: Family<ControllerLabel, Counter>,
    seconds: Family<ControllerLabel, Histogram>,
    active: Family<ControllerLabel, Gauge>,
    depth: Family<QueueLabel, Gauge>,
    adds: Family<QueueLabel, Counter>,
    leader: Family<QueueLabel, Gauge>,
    /// Member namespaces.
    pub mesh_namespaces: Family<MeshLabel, Gauge>,
    /// Live meshed pods.
    pub mesh_proxies: Family<MeshLabel, Gauge>,
    /// Those whose proxy serves.
    pub mesh_proxies_ready: Family<MeshLabel, Gauge>,
    /// Pods that should carry a sidecar and do not.
    pub mesh_pods_without_sidecar: Family<MeshLabel, Gauge>,
    /// Seconds since the Unix epoch.
    pub ca_not_after: Family<AuthorityLabels, Gauge>,
    /// Sequence of the published bundle.
    pub ca_bundle_sequence: Family<MeshLabel, Gauge>,
    /// Rotations of the CA.
    pub rotation: RotationMetrics,
    /// Leaves signed by this replica.
    pub ca_leaves_signed: Family<MeshLabel, Counter>,
    /// Seconds since the Unix epoch: end of the webhook's serving certificate.
    pub webhook_certificate_not_after: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::default(),
            reconciles: Family::default(),
            errors: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.005, 2.0, 14))),
            active: Family::default(),
            depth: Family::default(),
            adds: Family::default(),
            leader: Family::default(),
            mesh_namespaces: Family::default(),
            mesh_proxies: Family::default(),
            mesh_proxies_ready: Family::default(),
            mesh_pods_without_sidecar: Family::default(),
            ca_not_after: Family::default(),
            ca_bundle_sequence: Family::default(),
            rotation: RotationMetrics::default(),
            ca_leaves_signed: Family::default(),
            webhook_certificate_not_after: Gauge::default(),
        };
        metrics.register(|r| metrics.register_all(r));
        metrics
    }
}

impl Metrics {
    /// Adds metrics of a part of the operator.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn register_all(&self, r: &mut Registry) {
        self.rotation.register(r);
        r.register("controller_runtime_reconcile", "Reconciles by result", self.reconciles.clone());
        r.register("controller_runtime_reconcile_errors", "Reconciles that failed", self.errors.clone());
        r.register("controller_runtime_reconcile_time_seconds", "Seconds per reconcile", self.seconds.clone());
        r.register("controller_runtime_active_workers", "Reconciles going on", self.active.clone());
        r.register("workqueue_depth", "Objects that wait for a reconcile", self.depth.clone());
        r.register("workqueue_adds", "Objects that were given to be reconciled", self.adds.clone());
        r.register("leader_election_master_status", "1 while this replica leads", self.leader.clone());
        r.register("bowline_mesh_namespaces", "Member namespaces", self.mesh_namespaces.clone());
        r.register("bowline_mesh_proxies", "Live meshed pods", self.mesh_proxies.clone());
        r.register("bowline_mesh_proxies_ready", "Live meshed pods that serve", self.mesh_proxies_ready.clone());
        r.register(
            "bowline_mesh_pods_without_sidecar",
            "Pods that should carry a sidecar and do not",
            self.mesh_pods_without_sidecar.clone(),
        );
        r.register(
            "bowline_ca_not_after_timestamp_seconds",
            "When a root or issuing CA expires",
            self.ca_not_after.clone(),
        );
        r.register("bowline_ca_bundle_sequence", "Sequence of the trust bundle", self.ca_bundle_sequence.clone());
        r.register("bowline_ca_leaves_signed", "Leaves signed by this replica", self.ca_leaves_signed.clone());
        r.register(
            "bowline_webhook_certificate_not_after_timestamp_seconds",
            "When the webhook's serving certificate expires",
            self.webhook_certificate_not_after.clone(),
        );
    }

    /// The exposition, in OpenMetrics' text format.
    ///
    /// # Errors
    /// When a collector fails.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(out)
    }

    /// A reconcile begins.
    pub fn reconcile_started(&self, controller: &'static str) {
        self.active.get_or_create(&ControllerLabel { controller }).inc();
        self.adds.get_or_create(&QueueLabel { name: controller }).inc();
    }

    /// A reconcile ended.
    pub fn reconcile_ended(&self, controller: &'static str, outcome: Outcome, took: Duration) {
        let label = ControllerLabel { controller };
        self.active.get_or_create(&label).dec();
        self.seconds.get_or_create(&label).observe(took.as_secs_f64());
        self.reconciles.get_or_create(&ReconcileLabels { controller, result: outcome.as_str() }).inc();
        let errors = self.errors.get_or_create(&label);
        if outcome == Outcome::Error {
            errors.inc();
        }
    }

    /// How many objects wait for a reconcile.
    pub fn queue_depth(&self, controller: &'static str, depth: usize) {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.depth.get_or_create(&QueueLabel { name: controller }).set(depth);
    }

    /// Whether this replica leads.
    pub fn leading(&self, leads: bool) {
        self.leader.get_or_create(&QueueLabel { name: crate::config::OPERATOR_NAME }).set(i64::from(leads));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_dashboards_find_their_names() {
        let metrics = Metrics::default();
        metrics.reconcile_started("mesh");
        metrics.reconcile_ended("mesh", Outcome::Error, Duration::from_millis(20));
        metrics.queue_depth("mesh", 2);
        let text = metrics.encode().unwrap();
        for line in [
            r#"controller_runtime_reconcile_total{controller="mesh",result="error"} 1"#,
            r#"controller_runtime_reconcile_errors_total{controller="mesh"} 1"#,
            r#"controller_runtime_reconcile_time_seconds_count{controller="mesh"} 1"#,
            r#"workqueue_depth{name="mesh"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
