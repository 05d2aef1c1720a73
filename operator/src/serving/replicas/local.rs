//! What this replica knows of a Mesh's CA and proxies, as the others are told.

use bowline_proxy::contract::proto::{ObserveResponse, ObservedClock, ObservedProxy};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::ObjectRef;

use crate::{
    ca::fingerprint::digest,
    cluster::{cache::Cache, namespaced_name::NamespacedName},
    serving::{reports::Reports, tls::MeshTls},
};

/// This replica.
#[derive(Clone)]
pub struct LocalReplica {
    tls: MeshTls,
    reports: Reports,
    pods: Cache<Pod>,
}

impl LocalReplica {
    /// One that serves with `tls`, and heard `reports`; clocks of pods that are not in `pods` any more are forgotten.
    #[must_use]
    pub fn new(tls: MeshTls, reports: Reports, pods: Cache<Pod>) -> Self {
        Self { tls, reports, pods }
    }

    /// What this replica answers; `None`: the Mesh is not served here yet.
    #[must_use]
    pub fn observe(&self, mesh: &str) -> Option<ObserveResponse> {
        let holding = self.tls.holding(mesh)?;
        let proxies = self.reports.of_mesh(mesh).into_iter().map(|(key, state)| ObservedProxy {
            pod_namespace: state.pod.namespace.to_string(),
            pod_name: state.pod.name.to_string(),
            pod_uid: key.uid,
            slot: key.slot,
            proxy_version: state.version,
            report: state.report,
        });
        let is_there = |uid: &str, pod: &NamespacedName| {
            let found = self.pods.store().get(&ObjectRef::new(&pod.name).within(&pod.namespace));
            // A pod that is not in the cache yet is younger than the cache.
            found.is_none_or(|p| p.metadata.uid.as_deref() == Some(uid))
        };
        let clocks = self.reports.clocks(mesh, is_there).into_iter().map(|(uid, clock)| ObservedClock {
            pod_namespace: clock.pod.namespace.to_string(),
            pod_name: clock.pod.name.to_string(),
            pod_uid: uid,
            skew_ms: clock.skew_ms,
        });
        Some(ObserveResponse {
            revision: holding.revision,
            issuer_sha256: digest(&holding.issuer),
            proxies: proxies.collect(),
            clocks: clocks.collect(),
        })
    }
}
