//! What the cluster holds: a Mesh, a namespace with meshed pods, and the operator's replicas as pods.

use std::net::IpAddr;

use bowline_crds::names::{FINALIZER, INJECTED_ANNOTATION, MESH_LABEL, MESHED_LABEL};
use bowline_operator::runtime::config::OPERATOR_NAME;
use bowline_proxy::contract::bootstrap::{GATE, SLOTS, TOKEN_AUDIENCE};
use serde_json::{Value, json};

use crate::api::Api;

/// The Mesh.
pub(super) const MESH: &str = "default";
/// Where the operator runs.
pub(super) const SYSTEM: &str = "bowline-system";
/// Where the proxies run.
pub(super) const NAMESPACE: &str = "bench";
/// Service account of the proxies.
pub(super) const ACCOUNT: &str = "bench";
/// The Mesh's path.
pub(super) const MESH_PATH: &str = "/apis/bowline.dev/v1alpha1/meshes/default";
/// Path of the Secret with the CA's state.
pub(super) const SECRET_PATH: &str = "/api/v1/namespaces/bowline-system/secrets/bowline-ca";
/// Path of the ConfigMap that proxies mount.
pub(super) const TRUST_PATH: &str = "/api/v1/namespaces/bench/configmaps/bowline-trust-default";

/// A cluster with `proxies` meshed pods and the operator's replicas at these addresses.
#[must_use]
pub(super) fn build(proxies: u32, replicas: &[IpAddr]) -> Api {
    let api = Api::new(Box::new(holder));
    api.put(
        MESH_PATH,
        json!({
            "apiVersion": "bowline.dev/v1alpha1", "kind": "Mesh", "spec": {},
            "metadata": { "name": MESH, "uid": "uid-mesh", "generation": 1, "finalizers": [FINALIZER] }
        }),
    );
    for (name, labels) in [(SYSTEM, json!({})), (NAMESPACE, json!({ MESH_LABEL: MESH }))] {
        let path = format!("/api/v1/namespaces/{name}");
        api.put(
            &path,
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } }),
        );
    }
    for n in 0..proxies {
        api.put(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{}", pod(n)), meshed(n));
    }
    for (n, ip) in replicas.iter().enumerate() {
        let name = replica(n);
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}");
        let labels = json!({ "app.kubernetes.io/name": OPERATOR_NAME });
        api.put(
            &path,
            json!({
                "apiVersion": "v1", "kind": "Pod", "status": { "phase": "Running", "podIP": ip },
                "metadata": { "name": name, "namespace": SYSTEM, "uid": format!("uid-{name}"), "labels": labels }
            }),
        );
    }
    api
}

/// Name of a replica's pod.
#[must_use]
pub(super) fn replica(n: usize) -> String {
    format!("{OPERATOR_NAME}-{n}")
}

/// Name of a proxy's pod, and its token.
#[must_use]
pub(super) fn pod(n: u32) -> String {
    format!("proxy-{n}")
}

/// UID of the pod of that name.
#[must_use]
pub(super) fn uid(pod: &str) -> String {
    format!("uid-{pod}")
}

fn meshed(n: u32) -> Value {
    let name = pod(n);
    let init: Vec<Value> = SLOTS.iter().chain([&GATE]).map(|c| json!({ "name": c })).collect();
    let running = json!({ "name": SLOTS[0], "image": "proxy", "imageID": "", "ready": true, "restartCount": 0,
        "state": { "running": {} } });
    let [_, high, middle, low] = n.to_be_bytes();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "uid": uid(&name), "labels": { MESHED_LABEL: "true" },
            "annotations": { INJECTED_ANNOTATION: MESH }
        },
        "spec": { "serviceAccountName": ACCOUNT, "containers": [{ "name": "app" }], "initContainers": init },
        "status": {
            "phase": "Running", "podIP": format!("10.{high}.{middle}.{low}"), "initContainerStatuses": [running]
        }
    })
}

/// The `status` of a TokenReview: a token is the name of its pod.
fn holder(token: &str) -> Value {
    if !token.starts_with("proxy-") {
        return json!({ "error": "[invalid bearer token]" });
    }
    json!({ "authenticated": true, "audiences": [TOKEN_AUDIENCE], "user": {
        "username": format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}"),
        "extra": {
            "authentication.kubernetes.io/pod-name": [token], "authentication.kubernetes.io/pod-uid": [uid(token)]
        }
    } })
}
