//! Metrics of rotations of the certificate authority.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::labels::MeshLabel;

/// Labels `mesh` and `step` (`stage`, `distribute`, `activate`, `drop-issuer`, `drop-root`, `abort`, `roll-back` …).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StepLabels {
    /// Name of the Mesh.
    pub mesh: String,
    /// The step.
    pub step: &'static str,
}

/// See the module; cheap to clone.
#[derive(Clone, Default)]
pub struct RotationMetrics {
    /// Steps taken by this replica.
    pub steps: Family<StepLabels, Counter>,
    /// Begin of the rotation under way, in seconds since the Unix epoch; 0: none.
    pub began: Family<MeshLabel, Gauge>,
    /// Proxies that the next step waits for.
    pub waiting_proxies: Family<MeshLabel, Gauge>,
    /// Replicas of the operator that the next step waits for.
    pub waiting_replicas: Family<MeshLabel, Gauge>,
    /// 1: something would expire before a rotation can end.
    pub at_risk: Family<MeshLabel, Gauge>,
    /// Workloads whose clock is off by more than certificates are backdated.
    pub skewed: Family<MeshLabel, Gauge>,
}

impl RotationMetrics {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("bowline_ca_rotation_steps", "Steps of CA rotations that were taken", self.steps.clone());
        r.register(
            "bowline_ca_rotation_began_timestamp_seconds",
            "Begin of the CA rotation under way; 0: none",
            self.began.clone(),
        );
        r.register(
            "bowline_ca_rotation_waiting_proxies",
            "Proxies that the next step of a CA rotation waits for",
            self.waiting_proxies.clone(),
        );
        r.register(
            "bowline_ca_rotation_waiting_replicas",
            "Replicas of the operator that the next step of a CA rotation waits for",
            self.waiting_replicas.clone(),
        );
        r.register(
            "bowline_ca_trust_at_risk",
            "1: a root or issuing CA would expire before a rotation can end",
            self.at_risk.clone(),
        );
        r.register(
            "bowline_ca_skewed_workloads",
            "Workloads whose clock is off by more than certificates are backdated",
            self.skewed.clone(),
        );
    }

    /// Drops what only a leader can know.
    pub fn clear(&self) {
        for gauge in [&self.began, &self.waiting_proxies, &self.waiting_replicas, &self.at_risk, &self.skewed] {
            gauge.clear();
        }
    }

    /// Drops what is measured of a Mesh that is gone.
    pub fn forget(&self, label: &MeshLabel) {
        for gauge in [&self.began, &self.waiting_proxies, &self.waiting_replicas, &self.at_risk, &self.skewed] {
            gauge.remove(label);
        }
    }
}
