//! What the process says of itself: events and measurements come in, logs as JSON lines and metrics for Prometheus go out. Reconcilers use controller-runtime's metric names, so that stock dashboards work.

mod labels;
mod queue;
mod rotation;

pub use labels::{AuthorityLabels, MeshLabel};
pub use queue::{Outcome, QueueMetrics};
pub use rotation::{RotationMetrics, StepLabels};

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Starts logging.
pub fn init_log(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).init();
}

/// Label `name` of the election.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeaseLabel {
    name: &'static str,
}

/// Every metric of the operator; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Reconciles and their queues.
    pub queue: QueueMetrics,
    leader: Family<LeaseLabel, Gauge>,
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
            queue: QueueMetrics::default(),
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
        self.queue.register(r);
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
        self.queue.look();
        let mut out = String::new();
        text::encode(&mut out, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(out)
    }

    /// Whether this replica leads. One that does not leaves it to the leader to tell how Meshes are.
    pub fn leading(&self, leads: bool) {
        self.leader.get_or_create(&LeaseLabel { name: crate::runtime::config::OPERATOR_NAME }).set(i64::from(leads));
        if !leads {
            self.queue.stop();
            self.rotation.clear();
            for gauge in self.of_meshes() {
                gauge.clear();
            }
        }
    }

    /// Drops what is measured of a Mesh that is gone.
    pub fn forget(&self, mesh: &str) {
        let label = MeshLabel { mesh: mesh.into() };
        self.rotation.forget(&label);
        for gauge in self.of_meshes() {
            gauge.remove(&label);
        }
    }

    /// What the leader measures of each Mesh.
    fn of_meshes(&self) -> [&Family<MeshLabel, Gauge>; 4] {
        [&self.mesh_namespaces, &self.mesh_proxies, &self.mesh_proxies_ready, &self.mesh_pods_without_sidecar]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_dashboards_find_their_names() {
        let metrics = Metrics::default();
        metrics.queue.begins("mesh", 2);
        metrics.queue.mark("mesh", ["a", "b", "c"].map(str::to_owned));
        metrics.queue.started("mesh", "a");
        metrics.queue.ended("mesh", "a", Outcome::Error);
        metrics.queue.started("mesh", "b");
        let text = metrics.encode().unwrap();
        for line in [
            r#"controller_runtime_reconcile_total{controller="mesh",result="error"} 1"#,
            r#"controller_runtime_reconcile_errors_total{controller="mesh"} 1"#,
            r#"controller_runtime_reconcile_time_seconds_count{controller="mesh"} 1"#,
            r#"controller_runtime_active_workers{controller="mesh"} 1"#,
            r#"controller_runtime_max_concurrent_reconciles{controller="mesh"} 2"#,
            r#"workqueue_adds_total{name="mesh"} 3"#,
            r#"workqueue_depth{name="mesh"} 1"#,
            r#"workqueue_retries_total{name="mesh"} 1"#,
            r#"workqueue_queue_duration_seconds_count{name="mesh"} 2"#,
            r#"workqueue_work_duration_seconds_count{name="mesh"} 1"#,
            r#"workqueue_unfinished_work_seconds{name="mesh"} "#,
            r#"workqueue_longest_running_processor_seconds{name="mesh"} "#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_hangs_is_seen_while_it_hangs() {
        let metrics = Metrics::default();
        metrics.queue.mark("mesh", ["a", "b"].map(str::to_owned));
        metrics.queue.started("mesh", "a");
        tokio::time::advance(std::time::Duration::from_secs(30)).await;
        metrics.queue.started("mesh", "b");
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"workqueue_unfinished_work_seconds{name="mesh"} 50.0"#), "{text}");
        assert!(text.contains(r#"workqueue_longest_running_processor_seconds{name="mesh"} 40.0"#), "{text}");
        assert!(text.contains(r#"workqueue_queue_duration_seconds_sum{name="mesh"} 30.0"#), "{text}");
    }

    #[test]
    fn what_is_gone_waits_for_nothing() {
        let metrics = Metrics::default();
        metrics.queue.mark("mesh", ["a", "b"].map(str::to_owned));
        metrics.queue.mark("mesh", ["b".to_owned()]);
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"workqueue_depth{name="mesh"} 1"#), "{text}");
        assert!(text.contains(r#"workqueue_adds_total{name="mesh"} 2"#), "{text}");
    }
}
