use bowline_crds::names::INJECTED_ANNOTATION;
use bowline_proxy::contract::proto::{self, ObservedClock, ObservedProxy};
use serde_json::{Value, json};

use super::*;

fn pod(name: &str, uid: &str, annotations: Value, slots: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "shop", "uid": uid, "annotations": annotations },
        "spec": { "containers": [], "initContainers": [{ "name": "bowline-a" }, { "name": "bowline-b" }, { "name": "bowline-gate" }] },
        "status": { "phase": "Running", "initContainerStatuses": slots }
    }))
    .unwrap()
}

fn meshed(name: &str, uid: &str, slots: Value) -> Pod {
    pod(name, uid, json!({ INJECTED_ANNOTATION: "default" }), slots)
}

fn slot(state: Value, restarts: u32) -> Value {
    json!([{ "name": "bowline-a", "image": "", "imageID": "", "ready": true, "restartCount": restarts, "state": state }])
}

fn heard(uid: &str, slot: &str, sequence: Option<u64>) -> ObservedProxy {
    let report =
        sequence.map(|s| proto::Report { bundle_sequence: s, issuer_sha256: vec![0xab; 32], ..Default::default() });
    ObservedProxy { pod_uid: uid.into(), slot: slot.into(), report, ..ObservedProxy::default() }
}

#[test]
fn who_holds_a_leaf_or_may_is_a_party() {
    let waiting = json!({ "waiting": {} });
    let pods = [
        meshed("running", "1", slot(json!({ "running": {} }), 0)),
        meshed("pulling", "2", slot(waiting.clone(), 0)),
        meshed("restarting", "3", slot(waiting.clone(), 2)),
        meshed("signed", "4", slot(waiting.clone(), 0)),
        meshed("heard", "5", slot(waiting, 0)),
    ];
    let clock = ObservedClock { pod_uid: "4".into(), skew_ms: -400_000, ..ObservedClock::default() };
    let answers = [
        ObserveResponse { proxies: vec![heard("1", "a", Some(3)), heard("1", "b", None)], ..Default::default() },
        ObserveResponse {
            proxies: vec![heard("5", "a", Some(4)), heard("9", "a", Some(4))],
            clocks: vec![clock],
            ..Default::default()
        },
    ];
    let proxies = proxies(pods.iter(), &answers);
    let names: Vec<&str> = proxies.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["shop/heard", "shop/restarting", "shop/running", "shop/signed"]);
    assert_eq!(proxies[2].streams.len(), 2, "every slot speaks for the pod");
    assert!(proxies[1].streams.is_empty());
    assert_eq!(proxies[3].skew, Some(-400));
    let report = proxies[0].streams[0].as_ref().unwrap();
    assert_eq!((report.bundle_sequence, report.issuer.as_str()), (4, "ab".repeat(32).as_str()));
}

#[test]
fn only_live_pods_of_the_mesh_count() {
    let running = slot(json!({ "running": {} }), 0);
    assert!(is_of(&meshed("a", "1", running.clone()), "default"));
    assert!(!is_of(&meshed("a", "1", running.clone()), "other"));
    assert!(!is_of(&pod("a", "1", json!({}), running.clone()), "default"));
    let mut done = meshed("a", "1", running);
    done.status.as_mut().unwrap().phase = Some("Succeeded".into());
    assert!(!is_of(&done, "default"));
}
