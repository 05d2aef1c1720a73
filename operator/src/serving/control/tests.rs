use std::{collections::BTreeSet, fs, net::IpAddr};

use bowline_proxy::contract::proto;
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use proptest::prelude::*;
use prost::Message;
use serde::Deserialize;
use serde_json::{Value, json};

mod hints;
mod owners;
mod subscriptions;

use super::{
    compile::{Compiled, compile},
    index::{Index, Subject, Touched},
    key::Key,
    metrics::ControlMetrics,
    subscriptions::{
        Subscription, Subscriptions,
        limits::{MAX_SUBSCRIPTIONS, TooManySubscriptions},
    },
    view::{EndpointView, MeshView, PodView, PortView, ServiceView, SliceView, Target},
};
use crate::cluster::namespaced_name::NamespacedName;

fn mesh(strict: bool) -> MeshView {
    MeshView { trust_domain: "cluster.local".into(), strict }
}

/// Puts a Kubernetes object into the index.
fn set(index: &mut Index, object: &Value) -> Touched {
    let name = NamespacedName::new(
        object["metadata"]["namespace"].as_str().unwrap(),
        object["metadata"]["name"].as_str().unwrap(),
    );
    let object = object.clone();
    match object["kind"].as_str().unwrap() {
        "Pod" => index.set_pod(&name, PodView::of(&serde_json::from_value::<Pod>(object).unwrap())),
        "Service" => index.set_service(&name, ServiceView::of(&serde_json::from_value::<Service>(object).unwrap())),
        _ => index.set_slice(&name, SliceView::of(&serde_json::from_value::<EndpointSlice>(object).unwrap())),
    }
}

fn shop() -> Index {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/control/shop.yaml");
    let text = fs::read_to_string(path).unwrap();
    let mut index = Index::default();
    index.set_mesh("default", Some(mesh(true)));
    index.set_mesh("other", Some(mesh(false)));
    for document in serde_yaml::Deserializer::from_str(&text) {
        set(&mut index, &Value::deserialize(document).unwrap());
    }
    index
}

fn compiled(index: &Index, mesh: &str, subject: &Subject) -> Compiled {
    compile(index, mesh, subject).unwrap().unwrap()
}

fn service(index: &Index, mesh: &str, name: &str) -> proto::Service {
    proto::Service::decode(compiled(index, mesh, &Subject::Service(NamespacedName::new("shop", name))).body).unwrap()
}

/// As `service NAMESPACE/NAME`, `pod NAME IDENTITY PORTS` or `absent`.
fn address(index: &Index, mesh: &str, ip: &str) -> String {
    let compiled = compiled(index, mesh, &Subject::Address(ip.parse().unwrap()));
    if compiled.version == 0 {
        return "absent".into();
    }
    match proto::Address::decode(compiled.body).unwrap().target.unwrap() {
        proto::address::Target::Service(s) => format!("service {}/{}", s.namespace, s.name),
        proto::address::Target::Workload(w) => {
            let ports: Vec<String> =
                w.ports.iter().map(|p| format!("{}={}", p.port, p.protocol().as_str_name())).collect();
            format!("pod {} [{}] {}", w.pod, w.spiffe_id, ports.join(","))
        }
    }
}

/// One line per endpoint: address, target ports, identity, zone, draining.
fn endpoints(service: &proto::Service) -> Vec<String> {
    let groups = service.groups.iter().flat_map(|g| g.endpoints.iter().map(move |e| (&g.target_ports, e)));
    let mut lines: Vec<String> = groups
        .map(|(ports, e)| {
            let draining = if e.draining { " draining" } else { "" };
            format!("{} {ports:?} [{}] {}{draining}", e.ip, e.spiffe_id, e.zone)
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn addresses_are_services_pods_or_unknown() {
    let index = shop();
    for (ip, expected) in [
        ("10.96.0.10", "service shop/web"),
        ("fd00::10", "service shop/web"),
        ("10.244.0.1", "pod web-1 [spiffe://cluster.local/ns/shop/sa/web] 8080=HTTP1,9000=GRPC"),
        // Another mesh's roots are trusted by nobody here.
        ("10.244.0.2", "pod web-2 [] 8081=HTTP1,9000=GRPC"),
        ("10.244.0.3", "pod web-3 [] 8080=HTTP1,9000=GRPC"),
        ("10.244.0.5", "pod db-0 [spiffe://cluster.local/ns/shop/sa/default] 3306=TCP"),
        // A node, an ended pod, the outside.
        ("192.168.0.1", "absent"),
        ("10.244.0.9", "absent"),
        ("1.1.1.1", "absent"),
    ] {
        assert_eq!(address(&index, "default", ip), expected, "{ip}");
    }
    let theirs = address(&index, "other", "10.244.0.2");
    assert!(theirs.starts_with("pod web-2 [spiffe://cluster.local/ns/shop/sa/web]"), "{theirs}");
}

#[test]
fn what_a_service_says_of_its_endpoints_choice_is_told() {
    let mut index = shop();
    let mut object = json!({
        "kind": "Service", "metadata": { "namespace": "shop", "name": "agent" },
        "spec": { "clusterIP": "10.96.0.77", "ports": [{ "port": 80 }] },
    });
    let slice = json!({
        "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{ "name": "", "port": 8080 }],
        "metadata": { "namespace": "shop", "name": "agent-a", "labels": { "kubernetes.io/service-name": "agent" } },
        "endpoints": [{ "addresses": ["10.9.0.1"], "nodeName": "node-1" }],
    });
    set(&mut index, &slice);
    set(&mut index, &object);
    let told = |index: &Index| {
        let service = service(index, "default", "agent");
        (service.local, service.affine, service.groups[0].endpoints[0].node.clone())
    };
    // Where nobody asks for it, no table grows by the names of nodes.
    assert_eq!(told(&index), (false, false, String::new()));
    object["spec"]["sessionAffinity"] = json!("ClientIP");
    set(&mut index, &object);
    assert_eq!(told(&index), (false, true, String::new()));
    object["spec"]["internalTrafficPolicy"] = json!("Local");
    set(&mut index, &object);
    assert_eq!(told(&index), (true, true, "node-1".to_owned()));
}

#[test]
fn a_service_has_its_usable_endpoints() {
    let web = service(&shop(), "default", "web");
    let ports: Vec<_> = web.ports.iter().map(|p| (p.port, p.name.as_str(), p.protocol())).collect();
    assert_eq!(ports, [(80, "http", proto::Protocol::Http1), (9000, "api", proto::Protocol::Grpc)]);
    assert_eq!(
        endpoints(&web),
        [
            "10.244.0.1 [8080, 9000] [spiffe://cluster.local/ns/shop/sa/web] z1",
            "10.244.0.2 [8081, 0] [] ",
            "10.244.0.3 [8080, 9000] []  draining",
            "192.168.0.1 [8080, 9000] [] ",
        ]
    );
    // Not ready, but published.
    assert_eq!(
        endpoints(&service(&shop(), "default", "db")),
        ["10.244.0.5 [3306] [spiffe://cluster.local/ns/shop/sa/default] "]
    );
    assert_eq!(endpoints(&service(&shop(), "default", "legacy")), ["172.16.0.1 [8080] [] "]);
    let alias = compiled(&shop(), "default", &Subject::Service(NamespacedName::new("shop", "alias")));
    assert_eq!(alias.version, 0);
}

#[test]
fn a_policy_has_the_mode_and_the_declared_ports() {
    let index = shop();
    let policy = |mesh: &str, pod: &str| {
        let body = compiled(&index, mesh, &Subject::Inbound(NamespacedName::new("shop", pod))).body;
        proto::InboundPolicy::decode(body).unwrap()
    };
    let web = policy("default", "web-1");
    assert_eq!(web.mtls_mode(), proto::MtlsMode::Strict);
    assert_eq!(web.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [8080, 9000]);
    assert_eq!(policy("other", "web-2").mtls_mode(), proto::MtlsMode::Permissive);
    // A pod that one watch has not shown yet.
    assert_eq!(policy("default", "unseen").mtls_mode(), proto::MtlsMode::Strict);
}

#[test]
fn contradicting_declarations_declare_nothing() {
    let mut index = shop();
    let twin = json!({ "kind": "Service", "metadata": { "name": "twin", "namespace": "shop" }, "spec": {
        "clusterIP": "10.96.0.11", "selector": { "app": "web" }, "ports": [{ "name": "tcp", "port": 1, "targetPort": 8080 }]
    } });
    let touched = set(&mut index, &twin);
    assert!(touched.contains(&Subject::Inbound(NamespacedName::new("shop", "web-1"))));
    assert_eq!(address(&index, "default", "10.244.0.1"), "pod web-1 [spiffe://cluster.local/ns/shop/sa/web] 9000=GRPC");
}

#[test]
fn a_slice_touches_its_service_alone() {
    let mut index = shop();
    let slice = json!({ "kind": "EndpointSlice", "metadata": { "name": "web-b", "namespace": "shop",
        "labels": { "kubernetes.io/service-name": "web" } }, "addressType": "IPv4", "ports": [], "endpoints": [] });
    assert_eq!(set(&mut index, &slice), [Subject::Service(NamespacedName::new("shop", "web"))].into());
    assert_eq!(set(&mut index, &slice), Touched::new(), "nothing changed");
}

#[test]
fn the_younger_pod_has_the_address() {
    let mut index = Index::default();
    index.set_mesh("default", Some(mesh(true)));
    for (name, created) in [("z-old", 1), ("a-new", 2)] {
        let mut pod = any_pod_view(7, true, false);
        pod.created = created;
        index.set_pod(&NamespacedName::new("shop", name), Some(pod));
    }
    assert!(address(&index, "default", "10.0.0.7").starts_with("pod a-new"));
    index.set_pod(&NamespacedName::new("shop", "a-new"), None);
    assert!(address(&index, "default", "10.0.0.7").starts_with("pod z-old"));
}

fn any_pod_view(ip: u8, meshed: bool, host_network: bool) -> PodView {
    PodView {
        ips: vec![IpAddr::from([10, 0, 0, ip])],
        host_network,
        service_account: "web".into(),
        mesh: meshed.then(|| "default".into()),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        ports: [("web".to_owned(), 8080)].into(),
        owner: if meshed { "web".into() } else { String::new() },
        created: 0,
    }
}

/// Address, pod, readiness.
type Endpoints = Vec<(u8, u8, bool)>;

#[derive(Debug, Clone)]
enum Step {
    Mesh(bool, Option<bool>),
    Pod(u8, Option<(u8, bool, bool)>),
    Service(u8, Option<(u8, bool)>),
    Slice(u8, Option<(u8, Endpoints)>),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (any::<bool>(), any::<Option<bool>>()).prop_map(|(which, mesh)| Step::Mesh(which, mesh)),
        3 => (0_u8..4, proptest::option::weighted(0.8, (0_u8..4, any::<bool>(), any::<bool>()))).prop_map(|(n, p)| Step::Pod(n, p)),
        3 => (0_u8..3, proptest::option::weighted(0.8, (0_u8..4, any::<bool>()))).prop_map(|(n, s)| Step::Service(n, s)),
        3 => (0_u8..3, proptest::option::weighted(0.8, (0_u8..3, proptest::collection::vec((0_u8..4, 0_u8..4, any::<bool>()), 0..4))))
            .prop_map(|(n, s)| Step::Slice(n, s)),
    ]
}

fn take_step(index: &mut Index, step: &Step) -> Touched {
    let named = |prefix: &str, n: u8| NamespacedName::new("shop", format!("{prefix}-{n}"));
    match step {
        Step::Mesh(which, view) => index.set_mesh(if *which { "default" } else { "other" }, view.map(mesh)),
        Step::Pod(n, pod) => {
            index.set_pod(&named("pod", *n), pod.map(|(ip, meshed, host)| any_pod_view(ip, meshed, host)))
        }
        Step::Service(n, service) => {
            let view = service.map(|(ip, named_target)| ServiceView {
                cluster_ips: vec![IpAddr::from([10, 0, 0, ip])],
                selector: [("app".to_owned(), "web".to_owned())].into(),
                ports: vec![PortView {
                    port: 80,
                    name: "http".into(),
                    protocol: proto::Protocol::Http1,
                    target: if named_target { Target::Named("web".into()) } else { Target::Number(9090) },
                }],
                publish_not_ready: false,
                local: named_target,
                affine: false,
            });
            index.set_service(&named("service", *n), view)
        }
        Step::Slice(n, slice) => {
            let view = slice.clone().map(|(service, endpoints)| SliceView {
                service: named("service", service),
                ports: [("http".to_owned(), 8080)].into(),
                endpoints: endpoints
                    .into_iter()
                    .map(|(ip, pod, ready)| EndpointView {
                        ip: IpAddr::from([10, 0, 0, ip]),
                        pod: format!("pod-{pod}"),
                        zone: String::new(),
                        node: format!("node-{pod}"),
                        for_zones: if ready { vec![format!("zone-{pod}")] } else { Vec::new() },
                        for_nodes: Vec::new(),
                        ready,
                        draining: !ready,
                    })
                    .collect(),
            });
            index.set_slice(&named("slice", *n), view)
        }
    }
}

/// Everything that the steps can make, as both Meshes see it.
fn everything() -> Vec<(&'static str, Subject)> {
    let addresses = (0..4).map(|n| Subject::Address(IpAddr::from([10, 0, 0, n])));
    let services = (0..3).map(|n| Subject::Service(NamespacedName::new("shop", format!("service-{n}"))));
    let inbound = (0..4).map(|n| Subject::Inbound(NamespacedName::new("shop", format!("pod-{n}"))));
    let all: Vec<Subject> = addresses.chain(services).chain(inbound).collect();
    ["default", "other"].into_iter().flat_map(|mesh| all.iter().map(move |s| (mesh, s.clone()))).collect()
}

/// Puts what the index holds into a fresh one, in another order.
fn rebuilt(steps: &[Step]) -> Index {
    let mut last: std::collections::BTreeMap<String, &Step> = std::collections::BTreeMap::new();
    for step in steps {
        let key = match step {
            Step::Mesh(which, _) => format!("4 {which}"),
            Step::Pod(n, _) => format!("3 {n}"),
            Step::Service(n, _) => format!("2 {n}"),
            Step::Slice(n, _) => format!("1 {n}"),
        };
        last.insert(key, step);
    }
    let mut index = Index::default();
    for step in last.values() {
        take_step(&mut index, step);
    }
    index
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn steps_and_a_fresh_start_agree(steps in proptest::collection::vec(any_step(), 0..40)) {
        let mut index = Index::default();
        for step in &steps {
            take_step(&mut index, step);
        }
        let fresh = rebuilt(&steps);
        for (mesh, subject) in everything() {
            prop_assert_eq!(compile(&index, mesh, &subject), compile(&fresh, mesh, &subject), "{} {:?}", mesh, subject);
        }
    }

    #[test]
    fn whatever_changes_is_touched(steps in proptest::collection::vec(any_step(), 1..40)) {
        let mut index = Index::default();
        index.set_mesh("default", Some(mesh(true)));
        index.set_mesh("other", Some(mesh(true)));
        for step in steps {
            // What a Mesh's own proxies see is looked at as a whole when it changes: Subscriptions::set_mesh.
            if matches!(step, Step::Mesh(..)) {
                continue;
            }
            let before: Vec<_> = everything().iter().map(|(m, s)| compile(&index, m, s)).collect();
            let touched = take_step(&mut index, &step);
            for ((mesh, subject), before) in everything().into_iter().zip(before) {
                if compile(&index, mesh, &subject) != before {
                    prop_assert!(touched.contains(&subject), "{:?} changed {:?}, but touched {:?}", step, subject, touched);
                }
            }
        }
    }
}

#[test]
fn a_meshed_pod_without_a_valid_identity_is_refused_not_plain() {
    let mut index = shop();
    index.set_mesh("default", Some(MeshView { trust_domain: "Not/A/Domain".into(), strict: true }));
    for name in [Subject::Service(NamespacedName::new("shop", "web")), Subject::Address("10.244.0.1".parse().unwrap())]
    {
        assert!(compile(&index, "default", &name).is_err(), "{name:?}");
    }
}
