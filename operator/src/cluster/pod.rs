//! Facts about one pod that several rooms judge by. Pure; the pod comes in.

use std::collections::BTreeSet;

use bowline_crds::names::{INJECT_LABEL, INJECTED_ANNOTATION};
use bowline_proxy::contract::bootstrap::{GATE, SLOTS};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// Annotation of a static pod's image in the API; it cannot be changed.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether the pod is a kubelet's own, which admission cannot change.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    pod.annotations().contains_key(MIRROR)
}

/// Whether the pod's network is its node's.
#[must_use]
pub fn on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
}

/// Whether label or annotation keeps the pod out of the mesh.
#[must_use]
pub fn opted_out(pod: &Pod) -> bool {
    [pod.labels(), pod.annotations()].into_iter().any(|map| map.get(INJECT_LABEL).is_some_and(|v| v == "false"))
}

/// Name of the Mesh whose sidecar the pod carries.
#[must_use]
pub fn injected_mesh(pod: &Pod) -> Option<&str> {
    let names: BTreeSet<&str> =
        pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).map(|c| c.name.as_str()).collect();
    let complete = names.contains(GATE) && SLOTS.iter().all(|s| names.contains(s));
    pod.annotations().get(INJECTED_ANNOTATION).filter(|_| complete).map(String::as_str)
}

/// Whether all of the pod's containers have ended for good.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Service account of a pod.
#[must_use]
pub fn service_account(pod: &Pod) -> &str {
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref());
    account.filter(|a| !a.is_empty()).unwrap_or("default")
}
