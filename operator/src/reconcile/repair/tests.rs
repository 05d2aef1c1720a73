use bowline_crds::{Mesh, MeshSpec};
use serde_json::json;

use super::*;

#[test]
fn pods_without_sidecar_are_found() {
    let pods: Vec<Arc<Pod>> = [
        json!({ "metadata": { "name": "bare", "namespace": "shop" } }),
        json!({ "metadata": { "name": "agent", "namespace": "shop" }, "spec": { "containers": [], "hostNetwork": true } }),
        json!({ "metadata": { "name": "out", "namespace": "shop", "labels": { "bowline.dev/inject": "false" } } }),
        json!({ "metadata": { "name": "done", "namespace": "shop" }, "status": { "phase": "Succeeded" } }),
        json!({ "metadata": { "name": "else", "namespace": "other" } }),
        json!({ "metadata": { "name": "static", "namespace": "shop", "annotations": { "kubernetes.io/config.mirror": "x" } } }),
        // The annotation alone makes no sidecar.
        json!({ "metadata": { "name": "liar", "namespace": "shop", "annotations": { "bowline.dev/injected": "default" } } }),
    ]
    .into_iter()
    .map(|p| Arc::new(serde_json::from_value(p).unwrap()))
    .collect();
    let shop: Namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
    let other: Namespace = serde_json::from_value(json!({ "metadata": { "name": "other" } })).unwrap();
    let namespaces = [Arc::new(shop), Arc::new(other)];
    let member = Membership::One(Arc::new(Mesh::new("default", MeshSpec::default())));
    let found = missing_sidecars(&pods, &namespaces, |n| {
        if n.metadata.name.as_deref() == Some("shop") { member.clone() } else { Membership::None }
    });
    let names: Vec<_> = found.iter().map(|m| m.pod.metadata.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["agent", "bare", "liar"]);
    // To restart a pod on the host's network would change nothing.
    let notes: Vec<_> = found.iter().map(|m| note(&m.pod, &m.mesh)).collect();
    assert!(notes[0].contains("hostNetwork") && !notes[0].contains("restart"), "{}", notes[0]);
    assert!(notes[1].contains("rollout restart"), "{}", notes[1]);
}
