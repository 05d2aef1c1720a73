//! `/metrics`: the data path's metrics, and beside them what leaf, control stream, probes and process add, as one OpenMetrics exposition.

use std::sync::atomic::Ordering;

use super::process_metrics;
use crate::{control::state::State, identity::store::Store, telemetry::health::Health};

/// Appends the rest to `out`, the data path's metrics as [`openmetrics`](crate::telemetry::openmetrics) encodes them.
pub(super) fn encode(mut out: String, store: &Store, state: &State, health: &Health) -> String {
    // The encoder ends with a mark after which nothing may come.
    if let Some(end) = out.rfind("# EOF") {
        out.truncate(end);
    }
    let mut put = |name: &str, kind: &str, help: &str, value: String| {
        // OpenMetrics: a counter's samples end in _total, its name does not.
        let family = name.strip_suffix("_total").unwrap_or(name);
        out.push_str(&format!("# HELP {family} {help}.\n# TYPE {family} {kind}\n{name} {value}\n"));
    };
    if let Some(c) = store.current() {
        let end = c.not_after.to_string();
        put("bowline_leaf_not_after_seconds", "gauge", "End of the leaf's validity, Unix time", end);
    }
    let sequence = store.bundle().map_or(0, |b| b.sequence).to_string();
    put("bowline_bundle_sequence", "gauge", "Sequence of the trust bundle in use", sequence);
    let flag = |on: bool| u8::from(on).to_string();
    put("bowline_control_connected", "gauge", "Whether the control stream is up", flag(state.is_connected()));
    put("bowline_serving", "gauge", "Whether this slot serves the pod", flag(!health.serving.is_draining()));
    for (name, help, value) in [
        ("bowline_identity_failures_total", "Failed attempts to get a leaf", health.identity.failures()),
        ("bowline_control_failures_total", "Control streams that failed or ended", health.control.stream.failures()),
        ("bowline_control_rejected_total", "Resources refused", health.control.rejected.load(Ordering::Relaxed)),
        ("bowline_control_resyncs_total", "Streams given up as stale", health.control.resyncs.load(Ordering::Relaxed)),
        ("bowline_addresses_evicted_total", "Addresses that made room for others", state.evicted()),
        ("bowline_probes_passed_total", "Probes that succeeded", health.probes.passed.load(Ordering::Relaxed)),
        ("bowline_probes_failed_total", "Probes that failed", health.probes.failed.load(Ordering::Relaxed)),
    ] {
        put(name, "counter", help, value.to_string());
    }
    process_metrics::write(&mut put);
    out.push_str("# EOF\n");
    out
}
