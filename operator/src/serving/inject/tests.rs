use std::{fs, path::PathBuf, sync::Arc};

use bowline_crds::{Mesh, MeshSpec};
use bowline_proxy::contract::{
    bootstrap::{GATE, SLOTS, env},
    probe::Probe,
};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    decide::{Decision, Refusal, decide},
    patch::patch,
    *,
};
use crate::cluster::membership::Membership;

mod copied;

const IMAGE: &str = "localhost/bowline-proxy:0.1.0";

fn member() -> Membership {
    Membership::One(Arc::new(Mesh::new("default", MeshSpec::default())))
}

fn namespace(labels: Value) -> Namespace {
    serde_json::from_value(json!({ "metadata": { "name": "shop", "labels": labels } })).unwrap()
}

fn key(n: u8) -> probes::Key {
    let id = format!("{n:032x}/web/liveness");
    let action = serde_json::from_value(json!({ "tcpSocket": { "port": 1 } })).unwrap();
    probes::Key::of(&[Probe { id, action, timeout_seconds: 1 }]).unwrap()
}

fn decided(pod: &Value, labels: Value, membership: &Membership) -> Decision {
    let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
    decide(&typed, &namespace(labels), membership, IMAGE, &key(1))
}

/// The pod as the API server makes it of our answer.
fn injected(pod: &Value) -> Value {
    let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
    let Decision::Inject(plan) = decided(pod, json!({}), &member()) else { panic!("not injected: {pod}") };
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch(&typed, &plan)).unwrap();
    patched
}

fn refusal(pod: &Value, labels: Value, membership: &Membership) -> String {
    match decided(pod, labels, membership) {
        Decision::Refuse(refusal) => refusal.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/inject").join(name)
}

fn load(name: &str) -> Value {
    serde_yaml::from_str(&fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

/// Compares with `NAME.injected.yaml`; with `BLESS=1` in the environment that file is written anew.
fn snapshot(name: &str) {
    let found = serde_yaml::to_string(&injected(&load(&format!("{name}.yaml")))).unwrap();
    let path = fixture(&format!("{name}.injected.yaml"));
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, expected,
        "{name} is injected otherwise than before: if that is meant, run the test with BLESS=1"
    );
}

#[test]
fn fixtures_are_injected_as_recorded() {
    for name in ["plain", "probes", "hardened", "reinvoked"] {
        snapshot(name);
    }
}

#[test]
fn the_layout_is_the_contract() {
    let pod = injected(&load("probes.yaml"));
    let names: Vec<&str> =
        pod["spec"]["initContainers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bowline-a", "bowline-b", "bowline-gate", "migrate", "helper"]);
    for index in 0..2 {
        let slot = &pod["spec"]["initContainers"][index];
        assert_eq!(slot["restartPolicy"], "Always");
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert!(slot.get(probe).is_none(), "a slot must have no probe");
        }
    }
    let gate = &pod["spec"]["initContainers"][2];
    assert!(gate.get("restartPolicy").is_none());
    assert_eq!(gate["securityContext"]["capabilities"], json!({ "add": ["NET_ADMIN"], "drop": ["ALL"] }));
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/scrape"], "false");
    assert!(pod["metadata"]["annotations"].get("prometheus.io/port").is_none());
}

#[test]
fn probes_keep_their_meaning() {
    let pod = injected(&load("probes.yaml"));
    let slot = &pod["spec"]["initContainers"][0];
    let value = slot["env"].as_array().unwrap().iter().find(|e| e["name"] == env::PROBES).unwrap();
    let mut probes: Vec<Probe> = serde_json::from_str(value["value"].as_str().unwrap()).unwrap();
    probes.sort_by(|a, b| a.id.cmp(&b.id));
    for probe in &mut probes {
        let key = format!("{:032x}/", 1);
        probe.id = probe.id.strip_prefix(&key).expect("the key of this admission").to_owned();
    }
    let found = serde_json::to_value(probes).unwrap();
    assert_eq!(
        found,
        json!([
            { "id": "grpc/liveness", "grpc": { "port": 9000, "service": "" }, "timeoutSeconds": 1 },
            { "id": "grpc/readiness", "grpc": { "port": 9000, "service": "orders" }, "timeoutSeconds": 5 },
            { "id": "grpc/startup", "tcpSocket": { "port": 9000 }, "timeoutSeconds": 1 },
            { "id": "helper/startup", "tcpSocket": { "port": 7000 }, "timeoutSeconds": 1 },
            { "id": "http/liveness", "timeoutSeconds": 1,
              "httpGet": { "port": 8080, "path": "/live?x=1", "https": true, "headers": [["X-A", "1"]] } },
            { "id": "http/postStart", "timeoutSeconds": 3600,
              "httpGet": { "port": 8080, "path": "/started", "https": false, "headers": [] } },
            { "id": "http/preStop", "timeoutSeconds": 45,
              "httpGet": { "port": 8080, "path": "/stop", "https": false, "headers": [] } },
        ])
    );
}

#[test]
fn a_reinvocation_moves_ours_to_the_head_and_learns_probes() {
    let pod = injected(&load("reinvoked.yaml"));
    let names: Vec<&str> =
        pod["spec"]["initContainers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bowline-a", "bowline-b", "bowline-gate", "theirs"]);
    for index in 0..2 {
        let probes = pod["spec"]["initContainers"][index]["env"][1]["value"].as_str().unwrap();
        let ids: Vec<String> = serde_json::from_str::<Vec<Probe>>(probes).unwrap().into_iter().map(|p| p.id).collect();
        // The key that the first invocation made is the pod's for good.
        let key = "7d44840e3c4f1f2ab0a9a1c9f0d6c2e5";
        assert_eq!(ids, [format!("{key}/web/liveness"), format!("{key}/agent/readiness")]);
    }
}

#[test]
fn keys_are_made_anew_for_each_pod_and_never_shown() {
    let (one, two) = (probes::Key::random(), probes::Key::random());
    assert_ne!(one, two);
    assert_eq!(format!("{one:?}"), "Key(…)");
    let pod: Pod = serde_json::from_value(load("probes.yaml")).unwrap();
    let spec = pod.spec.unwrap();
    let path = |key: &probes::Key| probes::find(&spec, key).unwrap()[0].replacement().path.unwrap();
    assert_ne!(path(&one), path(&two));
    // /probe/, 128 bits in hexadecimal digits, the container and what is asked.
    assert_eq!(path(&one).split('/').nth(2).unwrap().len(), 32);
}

#[test]
fn a_pod_of_an_earlier_version_without_key_is_reinvoked_too() {
    let text = load("reinvoked.yaml").to_string().replace("7d44840e3c4f1f2ab0a9a1c9f0d6c2e5/", "");
    let pod = injected(&serde_json::from_str(&text).unwrap());
    let probes = pod["spec"]["initContainers"][0]["env"][1]["value"].as_str().unwrap();
    let ids: Vec<String> = serde_json::from_str::<Vec<Probe>>(probes).unwrap().into_iter().map(|p| p.id).collect();
    assert_eq!(ids, ["web/liveness".to_owned(), format!("{:032x}/agent/readiness", 1)]);
    assert_eq!(injected(&pod), pod);
}

#[test]
fn who_stays_out() {
    let mut pod = load("plain.yaml");
    let skipped =
        |pod: &Value, membership: &Membership| matches!(decided(pod, json!({}), membership), Decision::Skip(_));
    assert!(skipped(&pod, &Membership::None));
    assert!(!skipped(&pod, &member()));
    pod["metadata"]["labels"]["bowline.dev/inject"] = json!("false");
    // Whoever opts out is not bothered with the namespace's troubles.
    assert!(skipped(&pod, &member()) && skipped(&pod, &Membership::Unknown("x".into())));
    pod["metadata"]["labels"]["bowline.dev/inject"] = json!("true");
    assert!(!skipped(&pod, &member()));
    pod["metadata"]["annotations"] = json!({ "bowline.dev/inject": "false" });
    assert!(skipped(&pod, &member()));
}

#[test]
fn what_cannot_be_meshed_is_refused_with_a_remedy() {
    let base = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "web" }] } });
    for (pointer, value, why, remedy) in [
        ("/spec/hostNetwork", json!(true), "hostNetwork", "bowline.dev/inject=false"),
        ("/spec/os", json!({ "name": "windows" }), "Windows", "bowline.dev/inject=false"),
        ("/spec/nodeSelector", json!({ "kubernetes.io/os": "windows" }), "Windows", "bowline.dev/inject=false"),
        (
            "/spec/containers/0/ports",
            json!([{ "containerPort": 15001 }]),
            "container web listens on port 15001",
            "another port",
        ),
        ("/spec/containers/0/livenessProbe", json!({ "tcpSocket": { "port": 15008 } }), "port 15008", "another port"),
        (
            "/spec/containers/0/securityContext",
            json!({ "runAsUser": 15001 }),
            "container web runs as user",
            "another runAsUser",
        ),
        ("/spec/securityContext", json!({ "runAsUser": 15001 }), "the pod's securityContext", "another runAsUser"),
        ("/spec/containers/0/name", json!("bowline-a"), "container bowline-a", "rename"),
        ("/spec/initContainers", json!([{ "name": "bowline-gate", "args": ["other"] }]), "bowline-gate", "rename"),
        ("/spec/initContainers", json!([{ "name": "bowline-gate", "args": ["gate"] }]), "bowline-gate", "remove"),
        ("/spec/volumes", json!([{ "name": "bowline-token" }]), "volume bowline-token", "rename"),
        ("/metadata/annotations", json!({ "bowline.dev/skip-inbound-ports": "80-90" }), "\"80-90\"", "write numbers"),
    ] {
        let mut pod = base.clone();
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[member] = value;
        let message = refusal(&pod, json!({}), &self::member());
        assert!(message.contains(why) && message.contains(remedy), "{pointer}: {message}");
    }
    let level = |level: &str| json!({ "pod-security.kubernetes.io/enforce": level });
    for strict in ["baseline", "restricted"] {
        let message = refusal(&base, level(strict), &member());
        assert!(message.contains("NET_ADMIN") && message.contains("set the label to privileged"), "{message}");
    }
    assert!(matches!(decided(&base, level("privileged"), &member()), Decision::Inject(_)));
    let message = refusal(&base, json!({}), &Membership::Unknown("prod".into()));
    assert!(message.contains("namespace shop") && message.contains("no Mesh prod"), "{message}");
}

#[test]
fn what_no_pod_could_have_is_left_out_of_an_invalid_mesh() {
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "web" }] } });
    let plan = |proxy: Value| {
        let spec: MeshSpec = serde_json::from_value(json!({ "proxy": proxy })).unwrap();
        let membership = Membership::One(Arc::new(Mesh::new("default", spec)));
        let Decision::Inject(plan) = decided(&pod, json!({}), &membership) else { panic!("not injected") };
        (plan.sidecar.image, serde_json::to_value(plan.sidecar.resources).unwrap())
    };
    let bad = json!({ "image": "a b", "resources": { "limits": { "memory": "-1" } } });
    assert_eq!(plan(bad), plan(json!({})));
    let good = json!({ "image": "mine:1", "resources": { "limits": { "memory": "99Mi" } } });
    assert_eq!(plan(good), ("mine:1".into(), json!({ "limits": { "memory": "99Mi" } })));
}

#[test]
fn udp_ports_do_not_collide() {
    let port = json!([{ "containerPort": 15001, "protocol": "UDP" }]);
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "web", "ports": port }] } });
    assert!(matches!(decided(&pod, json!({}), &member()), Decision::Inject(_)));
}

#[test]
fn a_sidecar_of_another_mesh_is_not_taken_over() {
    let mut pod = injected(&load("plain.yaml"));
    pod["metadata"]["annotations"]["bowline.dev/injected"] = json!("other");
    let message = refusal(&pod, json!({}), &member());
    assert!(message.contains("for Mesh default") && message.contains("remove"), "{message}");
}

fn any_handler() -> impl Strategy<Value = Value> {
    prop_oneof![
        (1_u16..15000).prop_map(|p| json!({ "httpGet": { "port": p, "path": "/x" }, "periodSeconds": 4, "new": 1 })),
        (1_u16..15000).prop_map(|p| json!({ "tcpSocket": { "port": p }, "timeoutSeconds": 2 })),
        (1_u16..15000).prop_map(|p| json!({ "grpc": { "port": p } })),
        Just(json!({ "exec": { "command": ["true"] } })),
        Just(json!({ "httpGet": { "port": "missing" } })),
        Just(Value::Null),
    ]
}

fn any_container() -> impl Strategy<Value = Value> {
    (any_handler(), any_handler(), any::<bool>()).prop_map(|(liveness, startup, hook)| {
        let mut container =
            json!({ "image": "i", "unknown": { "a": [1] }, "livenessProbe": liveness, "startupProbe": startup });
        if hook {
            container["lifecycle"] = json!({ "preStop": { "httpGet": { "port": 80 } }, "unknown": 2 });
        }
        container
    })
}

prop_compose! {
    fn any_pod()(
        init in proptest::option::of(proptest::collection::vec(any_container(), 0..3)),
        main in proptest::collection::vec(any_container(), 1..4),
        annotations in proptest::option::of(proptest::collection::btree_map("[a-z]{1,5}(/[a-z~]{1,5})?", "[a-z]{0,3}", 0..3)),
        volumes in proptest::option::of(0_usize..2),
    ) -> Value {
        let named = |prefix: &str, list: Vec<Value>| -> Vec<Value> {
            list.into_iter().enumerate().map(|(i, mut c)| { c["name"] = json!(format!("{prefix}-{i}")); c }).collect()
        };
        let mut pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": named("main", main), "unknown": true } });
        if let Some(init) = init {
            pod["spec"]["initContainers"] = json!(named("init", init));
        }
        if let Some(annotations) = annotations {
            pod["metadata"]["annotations"] = json!(annotations);
        }
        if let Some(volumes) = volumes {
            pod["spec"]["volumes"] = (0..volumes).map(|i| json!({ "name": format!("v{i}") })).collect();
        }
        pod
    }
}

/// A container without the parts that the injector may change.
fn unprobed(container: &Value) -> Value {
    let mut container = container.clone();
    for probe in [&["livenessProbe"][..], &["startupProbe"], &["lifecycle", "preStop"]] {
        let mut at = &mut container;
        for member in probe {
            at = &mut at[*member];
        }
        if let Some(handler) = at.as_object_mut() {
            for member in ["httpGet", "tcpSocket", "grpc"] {
                handler.remove(member);
            }
        }
    }
    container
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn injecting_twice_is_injecting_once(pod in any_pod()) {
        let once = injected(&pod);
        prop_assert_eq!(&injected(&once), &once);
        // Each invocation brings a key, and the first one's stays.
        let typed: Pod = serde_json::from_value(once.clone()).unwrap();
        let Decision::Inject(plan) = decide(&typed, &namespace(json!({})), &member(), IMAGE, &key(2)) else {
            panic!("not injected: {once}")
        };
        prop_assert!(patch(&typed, &plan).0.is_empty());
    }

    #[test]
    fn what_the_user_wrote_stays(pod in any_pod()) {
        let after = injected(&pod);
        let list = |pod: &Value, member: &str| pod["spec"][member].as_array().cloned().unwrap_or_default();
        let theirs: Vec<Value> = list(&after, "initContainers").iter().skip(3).map(unprobed).collect();
        let before: Vec<Value> = list(&pod, "initContainers").iter().map(unprobed).collect();
        prop_assert_eq!(theirs, before);
        let main: Vec<Value> = list(&after, "containers").iter().map(unprobed).collect();
        let before: Vec<Value> = list(&pod, "containers").iter().map(unprobed).collect();
        prop_assert_eq!(main, before);
        prop_assert_eq!(&after["spec"]["unknown"], &pod["spec"]["unknown"]);
        for (key, value) in pod["metadata"]["annotations"].as_object().into_iter().flatten() {
            prop_assert_eq!(&after["metadata"]["annotations"][key], value);
        }
        prop_assert!(list(&after, "volumes").starts_with(&list(&pod, "volumes")));
    }

    #[test]
    fn ours_come_first_wherever_others_were_put(pod in any_pod(), at in 0_usize..3) {
        let mut pod = injected(&pod);
        let init = pod["spec"]["initContainers"].as_array_mut().unwrap();
        init.insert(at, json!({ "name": "theirs", "image": "i" }));
        let after = injected(&pod);
        let names: Vec<&str> =
            after["spec"]["initContainers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        prop_assert_eq!(&names[..3], &[SLOTS[0], SLOTS[1], GATE]);
        prop_assert_eq!(names[3], "theirs");
    }
}
