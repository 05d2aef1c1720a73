use data_encoding::HEXLOWER;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    admin::readiness::not_ready,
    contract::{
        resource::{Address, Bundle, Endpoint, InboundPolicy, Protocol, Selection, Service, ServiceKey, ServicePort},
        spiffe::SpiffeId,
    },
    identity::{
        key::Key,
        leaf::Leaf,
        test_ca::{Ca, DOMAIN, leaf_params, now},
    },
};

fn whole() -> ReadinessInputs {
    ReadinessInputs {
        leaf_not_after: Some(100),
        roots: Some(1),
        policy: true,
        listening: true,
        ..ReadinessInputs::default()
    }
}

fn whats(seen: &ReadinessInputs, at: i64) -> Vec<&'static str> {
    not_ready(seen, at).into_iter().map(|r| r.what).collect()
}

#[test]
fn ready_means_everything() {
    assert!(not_ready(&whole(), 50).is_empty());
    assert_eq!(whats(&ReadinessInputs::default(), 50), ["leaf", "bundle", "policy", "listeners"]);
    assert_eq!(whats(&whole(), 101), ["leaf"]);
    assert_eq!(whats(&ReadinessInputs { roots: Some(0), ..whole() }, 50), ["bundle"]);
    assert_eq!(whats(&ReadinessInputs { draining: true, ..whole() }, 50), ["draining"]);
    let failed = ReadinessInputs { policy: false, control_error: Some("refused".into()), ..whole() };
    assert!(not_ready(&failed, 50)[0].why.contains("refused"));
}

fn admin() -> Admin {
    Admin {
        slot: "a".into(),
        store: Store::new(),
        state: State::new(),
        health: Health::default(),
        metrics: Arc::new(|| "# TYPE x counter\nx_total 1\n# EOF\n".into()),
    }
}

async fn body(answer: HttpResponse) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn install(admin: &Admin) -> Bundle {
    let ca = Ca::new("a");
    let id = SpiffeId::new(DOMAIN, "shop", "web").unwrap();
    let key = Key::generate().unwrap();
    let chain = ca.chain(&key, &leaf_params(&[id.as_str()]));
    let leaf = Leaf::check(&id, key, chain, &ca.bundle(3), now()).unwrap();
    admin.store.install_leaf(leaf, ca.bundle(3)).unwrap();
    ca.bundle(3)
}

#[tokio::test]
async fn readiness_follows_what_the_parts_say() {
    let admin = admin();
    admin.health.identity.failed("the moon is full".into());
    let answer = admin.admin("/ready");
    assert_eq!(answer.status(), 503);
    assert!(body(answer).await.contains("the moon is full"));
    install(&admin);
    admin.state.set_inbound_policy(Arc::new(InboundPolicy { strict: true, ports: vec![] }));
    assert_eq!(admin.admin("/ready").status(), 503);
    admin.health.serving.set_listening();
    assert_eq!(admin.admin("/ready").status(), 200);
    admin.health.serving.set_draining();
    assert_eq!(admin.admin("/ready").status(), 503);
    assert_eq!(admin.admin("/live").status(), 200);
    assert_eq!(admin.admin("/x").status(), 404);
    assert_eq!(admin.public("/healthz").status(), 200);
    assert_eq!(admin.public("/config").status(), 404);
}

#[tokio::test]
async fn the_dump_shows_what_is_known_and_no_key() {
    let admin = admin();
    let bundle = install(&admin);
    let key = ServiceKey { namespace: "shop".into(), name: "api".into() };
    admin.state.set_address([10, 0, 0, 1].into(), Some(Arc::new(Address::Service(key.clone()))));
    let endpoint = Endpoint {
        ip: [10, 1, 0, 1].into(),
        port: 8080,
        identity: None,
        pod: "api-1".into(),
        zone: String::new(),
        node: String::new(),
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
        draining: false,
    };
    let port = ServicePort { port: 80, name: "http".into(), protocol: Protocol::Http1, endpoints: vec![endpoint] };
    admin
        .state
        .set_service(key.clone(), Some(Arc::new(Service { key, ports: vec![port], selection: Selection::default() })));
    admin.state.set_address([9, 9, 9, 9].into(), None);
    let dump: Value = serde_json::from_str(&body(admin.admin("/config")).await).unwrap();
    assert_eq!(dump["identity"]["id"], "spiffe://mesh.test/ns/shop/sa/web");
    assert_eq!(dump["identity"]["bundle"]["rootsSha256"][0], HEXLOWER.encode(&Sha256::digest(&bundle.roots[0])));
    assert_eq!(dump["destinations"]["9.9.9.9"], "outside");
    assert_eq!(dump["destinations"]["10.0.0.1"]["ports"]["80"]["endpoints"][0]["address"], "10.1.0.1:8080");
    assert!(!dump.to_string().to_lowercase().contains("private"));
}

#[tokio::test]
async fn metrics_are_one_exposition() {
    let admin = admin();
    install(&admin);
    let text = body(admin.admin("/metrics")).await;
    assert_eq!(text.matches("# EOF").count(), 1);
    assert!(text.ends_with("# EOF\n"));
    for line in ["x_total 1", "bowline_bundle_sequence 3", "bowline_control_connected 0", "bowline_serving 1"] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    assert!(text.contains("# TYPE bowline_control_rejected counter\nbowline_control_rejected_total 0\n"));
    assert!(text.contains("process_resident_memory_bytes"));
}
