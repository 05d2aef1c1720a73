//! What is measured of control streams, and of the connections that they come on.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use crate::{
    runtime::listener::ReasonLabel,
    telemetry::{MeshLabel, Metrics},
};

/// Label `type`: of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TypeLabel {
    /// As in the wire protocol.
    pub r#type: &'static str,
}

/// Handles of all metrics; cheap to clone.
#[derive(Debug, Clone)]
pub struct ControlMetrics {
    /// Proxies on this replica's streams, by Mesh.
    pub connected: Family<MeshLabel, Gauge>,
    /// Resources that proxies refused.
    pub nacks: Family<TypeLabel, Counter>,
    /// Resources that the proxy's own code refused before they were shipped.
    pub compile_failures: Family<TypeLabel, Counter>,
    /// Seconds from a change to its being handed to a stream.
    pub push_seconds: Histogram,
    /// Streams that ended, by reason.
    pub streams_ended: Family<ReasonLabel, Counter>,
    /// Connections that failed before they could be used.
    pub refused: Family<ReasonLabel, Counter>,
}

impl Default for ControlMetrics {
    fn default() -> Self {
        Self {
            connected: Family::default(),
            nacks: Family::default(),
            compile_failures: Family::default(),
            push_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            streams_ended: Family::default(),
            refused: Family::default(),
        }
    }
}

impl ControlMetrics {
    /// Adds them to the exposition.
    pub fn register(&self, metrics: &Metrics) {
        metrics.register(|r| {
            r.register(
                "bowline_control_connected_proxies",
                "Proxies on this replica's streams",
                self.connected.clone(),
            );
            r.register("bowline_control_nacks", "Resources that proxies refused", self.nacks.clone());
            r.register(
                "bowline_control_compile_failures",
                "Resources that were not shipped because no proxy could load them",
                self.compile_failures.clone(),
            );
            r.register(
                "bowline_control_push_seconds",
                "Seconds from a change to its being handed to a stream",
                self.push_seconds.clone(),
            );
            r.register("bowline_control_streams_ended", "Control streams that ended", self.streams_ended.clone());
            r.register(
                "bowline_control_connections_refused",
                "Connections that failed before they could be used",
                self.refused.clone(),
            );
        });
    }

    /// Counts the end of a stream.
    pub fn stream_ended(&self, reason: &'static str) {
        self.streams_ended.get_or_create(&ReasonLabel { reason }).inc();
    }
}
