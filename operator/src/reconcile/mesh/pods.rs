//! Who of the pods is meshed, serves, or should be meshed and is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bowline_crds::names::PROXY_VERSION_ANNOTATION;
use bowline_proxy::contract::bootstrap::{GATE, SLOTS};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use crate::cluster::pod::{injected_mesh, is_finished, is_static, on_host_network, opted_out};

/// Names that are listed at most.
pub const NAMED: usize = 10;

/// A Mesh's pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live meshed pods, without those that are being deleted.
    pub total: u32,
    /// Those of them whose proxy serves.
    pub ready: u32,
    /// Pods that should carry a sidecar and do not (`NAMESPACE/POD`, ascending).
    pub missing: BTreeSet<String>,
    /// Pods of members that cannot carry one, because their network is the node's, and do not say that they stay out.
    pub host_network: BTreeSet<String>,
    /// Meshed pods that are there at all, those that are being deleted too (`NAMESPACE/POD`).
    pub present: BTreeSet<String>,
    /// Namespaces of these.
    pub present_in: BTreeSet<String>,
    /// Of the live ones, how many by proxy version.
    pub versions: BTreeMap<String, u32>,
}

/// Counts the pods of a Mesh whose members (ascending) are given.
#[must_use]
pub fn count(mesh: &str, members: &[String], pods: &[Arc<Pod>]) -> Counts {
    let mut counts = Counts::default();
    for pod in pods.iter().filter(|p| !is_finished(p)) {
        let Some(namespace) = pod.namespace() else { continue };
        let id = || format!("{namespace}/{}", pod.name_any());
        let dying = pod.metadata.deletion_timestamp.is_some();
        match injected_mesh(pod) {
            Some(of) if of == mesh => {
                counts.present.insert(id());
                counts.present_in.insert(namespace.clone());
                if !dying {
                    counts.total += 1;
                    counts.ready += u32::from(serves(pod));
                    let version = pod.annotations().get(PROXY_VERSION_ANNOTATION).map_or("unknown", String::as_str);
                    *counts.versions.entry(version.to_owned()).or_default() += 1;
                }
            }
            Some(_) => {}
            None => {
                let staying = dying || opted_out(pod) || is_static(pod);
                if !staying && members.binary_search(&namespace).is_ok() {
                    if on_host_network(pod) { &mut counts.host_network } else { &mut counts.missing }.insert(id());
                }
            }
        }
    }
    counts
}

/// Whether the pod's gate has let the application through and a slot runs since.
fn serves(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default();
    let state = |s: &ContainerStatus| s.state.clone().unwrap_or_default();
    let passed = statuses.iter().any(|s| s.name == GATE && state(s).terminated.is_some_and(|t| t.exit_code == 0));
    let running = statuses.iter().any(|s| SLOTS.contains(&s.name.as_str()) && state(s).running.is_some());
    passed && running
}

/// The first few names, and how many more there are.
#[must_use]
pub fn named(pods: &BTreeSet<String>) -> String {
    let first: Vec<&str> = pods.iter().take(NAMED).map(String::as_str).collect();
    match pods.len().saturating_sub(NAMED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_crds::names::{INJECT_LABEL, INJECTED_ANNOTATION};
    use serde_json::{Value, json};

    fn pod(name: &str, annotations: Value, labels: Value, status: Value) -> Arc<Pod> {
        let pod = json!({
            "metadata": { "name": name, "namespace": "shop", "annotations": annotations, "labels": labels },
            "spec": { "containers": [], "initContainers": [{ "name": "bowline-a" }, { "name": "bowline-b" }, { "name": "bowline-gate" }] },
            "status": status
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn meshed(name: &str, status: Value) -> Arc<Pod> {
        pod(name, json!({ INJECTED_ANNOTATION: "m", PROXY_VERSION_ANNOTATION: "0.1.0" }), json!({}), status)
    }

    #[test]
    fn pods_are_counted_by_what_they_are() {
        let serving = json!({ "phase": "Running", "initContainerStatuses": [
            { "name": "bowline-a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} } },
            { "name": "bowline-gate", "image": "", "imageID": "", "ready": true, "restartCount": 0,
              "state": { "terminated": { "exitCode": 0 } } }
        ] });
        let mut dying = Arc::unwrap_or_clone(meshed("dying", json!({ "phase": "Running" })));
        dying.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        // Somebody else's annotation makes no sidecar.
        let mut pretender = Arc::unwrap_or_clone(meshed("pretender", json!({ "phase": "Running" })));
        pretender.spec.as_mut().unwrap().init_containers = None;
        let mut host = Arc::unwrap_or_clone(pod("host", json!({}), json!({}), json!({ "phase": "Running" })));
        host.spec.as_mut().unwrap().host_network = Some(true);
        let mut host_out = host.clone();
        host_out.labels_mut().insert(INJECT_LABEL.into(), "false".into());
        let pods = [
            meshed("serving", serving),
            meshed("starting", json!({ "phase": "Pending" })),
            meshed("done", json!({ "phase": "Succeeded" })),
            Arc::new(dying),
            pod("other", json!({ INJECTED_ANNOTATION: "x" }), json!({}), json!({ "phase": "Running" })),
            pod("out", json!({}), json!({ INJECT_LABEL: "false" }), json!({ "phase": "Running" })),
            pod("bare", json!({}), json!({}), json!({ "phase": "Running" })),
            Arc::new(pretender),
            pod("static", json!({ "kubernetes.io/config.mirror": "x" }), json!({}), json!({ "phase": "Running" })),
            Arc::new(host),
            Arc::new(host_out),
        ];
        let counts = count("m", &["shop".into()], &pods);
        assert_eq!((counts.total, counts.ready), (2, 1));
        assert_eq!(counts.missing, ["shop/bare".to_owned(), "shop/pretender".to_owned()].into());
        assert_eq!(counts.host_network, ["shop/host".to_owned()].into());
        assert_eq!(counts.present.len(), 3);
        assert_eq!(counts.versions, [("0.1.0".to_owned(), 2)].into());
        let elsewhere = count("m", &["billing".into()], &pods);
        assert!(elsewhere.missing.is_empty());
    }

    #[test]
    fn long_lists_are_cut() {
        let pods: BTreeSet<String> = (10..22).map(|n| format!("a/{n}")).collect();
        assert!(named(&pods).ends_with("a/19 and 2 more"), "{}", named(&pods));
    }
}
