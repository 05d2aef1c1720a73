//! Identity and control over real sockets, with a scripted API server.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "serving/bounds.rs"]
mod bounds;
#[path = "serving/cluster.rs"]
mod cluster;
#[path = "serving/ending.rs"]
mod ending;
#[path = "serving/plane.rs"]
mod plane;

use std::time::{Duration, SystemTime};

use bowline_operator::{
    cluster::namespaced_name::NamespacedName,
    serving::control::{
        index::Touched,
        view::{MeshView, PodView, ServiceView, SliceView},
    },
};
use bowline_proxy::contract::{
    proto::{
        Ack, ControlMessage, Hello, InboundPolicy, ProxyMessage, Rejection, Report, Resource, ResourceKey,
        ResourceType, ResourceVersion, SignRequest, Subscribe, TrustBundle, control_client::ControlClient,
        control_message, identity_client::IdentityClient, proxy_message::Kind,
    },
    validate,
};
use cluster::{ID, MESH};
use plane::Plane;
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(60);

async fn start() -> Plane {
    let plane = Plane::start().await;
    plane.fill();
    plane
}

async fn sign(plane: &Plane, request: SignRequest) -> Result<bowline_proxy::contract::proto::SignResponse, Status> {
    let channel = plane.connect(MESH, None).await.map_err(|e| Status::from_error(e.into()))?;
    IdentityClient::new(channel).sign(request).await.map(tonic::Response::into_inner)
}

fn request(token: &str) -> SignRequest {
    SignRequest { token: token.into(), csr_der: plane::csr(ID).into(), client_time_ms: 0 }
}

#[tokio::test]
async fn a_pod_gets_its_leaf() {
    let plane = start().await;
    let response = sign(&plane, request("good")).await.unwrap();
    let leaf = response.chain_der[0].as_slice().into();
    assert_eq!(bowline_operator::serving::peer::identity(&leaf).unwrap().as_str(), ID);
    assert_eq!(response.chain_der.len(), 2);
    assert_eq!(response.bundle.unwrap(), plane.ca().bundle);
    let metrics = plane.metrics();
    assert!(metrics.contains(r#"bowline_identity_requests_total{reason="signed"} 1"#), "{metrics}");
}

#[tokio::test]
async fn every_refusal_says_why_and_never_the_token() {
    let plane = start().await;
    let good = |csr: Vec<u8>| SignRequest { csr_der: csr.into(), ..request("good") };
    for (case, asked, code, why) in [
        ("no token", request(""), Code::Unauthenticated, "has no token"),
        ("unknown token", request("stolen-secret"), Code::Unauthenticated, "the token is refused"),
        ("expired token", request("expired-secret"), Code::Unauthenticated, "token has expired"),
        ("wrong audience", request("audience-secret"), Code::Unauthenticated, "not meant for bowline.dev/identity"),
        ("a user's token", request("user-secret"), Code::Unauthenticated, "no service account's"),
        ("bound to no pod", request("podless-secret"), Code::Unauthenticated, "bound to no pod"),
        (
            "foreign namespace",
            request("outsider-secret"),
            Code::PermissionDenied,
            "namespace outside is not in Mesh default",
        ),
        ("pod of another UID", request("replaced-secret"), Code::PermissionDenied, "does not exist any more"),
        ("ended pod", request("ended-secret"), Code::PermissionDenied, "has ended"),
        (
            "other service account",
            request("account-secret"),
            Code::PermissionDenied,
            "does not run as service account admin",
        ),
        ("no sidecar", request("bare-secret"), Code::PermissionDenied, "carries no sidecar of Mesh default"),
        ("API server down", request("down-secret"), Code::Unavailable, "cannot review the token now"),
        ("no CSR", good(Vec::new()), Code::InvalidArgument, "no PKCS #10"),
        ("oversized CSR", good(vec![0x30; 5000]), Code::InvalidArgument, "5000 bytes"),
        (
            "foreign name",
            good(plane::csr("spiffe://cluster.local/ns/shop/sa/admin")),
            Code::PermissionDenied,
            "only subject alternative name",
        ),
        ("oversized token", request(&"x".repeat(20_000)), Code::InvalidArgument, "more than 16384 bytes"),
        ("oversized message", request(&"x".repeat(100_000)), Code::OutOfRange, "too large"),
    ] {
        let token = asked.token.clone();
        let status = sign(&plane, asked).await.expect_err(case);
        assert_eq!(status.code(), code, "{case}: {status:?}");
        assert!(status.message().contains(why), "{case}: {status:?}");
        assert!(token.is_empty() || token == "good" || !status.message().contains(&token), "{case}: {status:?}");
    }
    let metrics = plane.metrics();
    assert!(metrics.contains(r#"bowline_identity_requests_total{reason="denied"} 6"#), "{metrics}");
    assert!(!metrics.contains(r#"reason="signed""#), "{metrics}");
    assert!(plane.connect("unknown", None).await.is_err(), "an SNI that names no Mesh is refused");
}

/// A proxy's end of a stream.
struct Proxy {
    tx: mpsc::Sender<ProxyMessage>,
    rx: Streaming<ControlMessage>,
}

fn hello() -> Hello {
    Hello {
        proxy_version: "0.1.0".into(),
        pod_namespace: "shop".into(),
        pod_name: "web-1".into(),
        pod_uid: "uid-1".into(),
        slot: "a".into(),
        known: Vec::new(),
    }
}

async fn open(plane: &Plane, identity: Option<&str>, hello: Hello) -> Result<Proxy, Status> {
    let channel = plane.connect(MESH, identity).await.map_err(|e| Status::from_error(e.into()))?;
    let (tx, rx) = mpsc::channel(64);
    tx.send(ProxyMessage { kind: Some(Kind::Hello(hello)) }).await.unwrap();
    let rx = ControlClient::new(channel).connect(ReceiverStream::new(rx)).await?.into_inner();
    Ok(Proxy { tx, rx })
}

impl Proxy {
    async fn send(&self, kind: Kind) {
        self.tx.send(ProxyMessage { kind: Some(kind) }).await.unwrap();
    }

    async fn add(&self, kind: ResourceType, key: &str) {
        let key = ResourceKey { r#type: kind.into(), key: key.into() };
        self.send(Kind::Subscribe(Subscribe { add: vec![key], remove: Vec::new() })).await;
    }

    async fn remove(&self, keys: &[(ResourceType, &str)]) {
        let remove = keys.iter().map(|(kind, key)| ResourceKey { r#type: (*kind).into(), key: (*key).into() });
        self.send(Kind::Subscribe(Subscribe { add: Vec::new(), remove: remove.collect() })).await;
    }

    /// Resources until `count` have come.
    async fn resources(&mut self, count: usize) -> Vec<Resource> {
        self.resources_unless_it_ends(count).await.unwrap()
    }

    async fn resources_unless_it_ends(&mut self, count: usize) -> Result<Vec<Resource>, Status> {
        let mut all: Vec<Resource> = Vec::new();
        while all.len() < count {
            let message = tokio::time::timeout(DEADLINE, self.rx.message()).await.expect("nothing came")?;
            let message = message.ok_or_else(|| Status::aborted("the stream has ended"))?;
            if let Some(control_message::Kind::Update(update)) = message.kind {
                all.extend(update.resources);
            }
        }
        assert_eq!(all.len(), count, "{all:?}");
        all.sort_by_key(|r| r.r#type);
        Ok(all)
    }

    async fn end(&mut self) -> Status {
        loop {
            match tokio::time::timeout(DEADLINE, self.rx.message()).await.expect("the stream goes on") {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("ended"),
                Err(status) => return status,
            }
        }
    }
}

#[tokio::test]
async fn only_the_pod_itself_may_open_its_stream() {
    let plane = start().await;
    let other = |change: fn(&mut Hello)| {
        let mut hello = hello();
        change(&mut hello);
        hello
    };
    for (case, identity, hello, code, why) in [
        ("no certificate", None, hello(), Code::Unauthenticated, "client certificate"),
        (
            "other namespace",
            Some(ID),
            other(|h| h.pod_namespace = "outside".into()),
            Code::PermissionDenied,
            "may not speak",
        ),
        ("no such pod", Some(ID), other(|h| h.pod_name = "web-9".into()), Code::PermissionDenied, "there is no pod"),
        ("other UID", Some(ID), other(|h| h.pod_uid = "uid-9".into()), Code::PermissionDenied, "there is no pod"),
        (
            "other account",
            Some("spiffe://cluster.local/ns/shop/sa/admin"),
            hello(),
            Code::PermissionDenied,
            "does not run as",
        ),
        ("bad slot", Some(ID), other(|h| h.slot = "c".into()), Code::InvalidArgument, "neither a nor b"),
    ] {
        let status = open(&plane, identity, hello).await.map(|_| ()).expect_err(case);
        assert_eq!(status.code(), code, "{case}: {status:?}");
        assert!(status.message().contains(why), "{case}: {status:?}");
    }
    assert!(plane.reports.of_mesh(MESH).is_empty());
}

#[tokio::test]
async fn a_stream_brings_what_is_subscribed_and_nothing_twice() {
    let plane = start().await;
    let mut proxy = open(&plane, Some(ID), hello()).await.unwrap();
    let first = proxy.resources(2).await;
    assert_eq!(TrustBundle::decode(first[0].body.clone()).unwrap(), plane.ca().bundle);
    InboundPolicy::decode(first[1].body.clone()).unwrap();
    for resource in &first {
        validate::resource(resource.r#type, &resource.body).unwrap();
    }

    proxy.add(ResourceType::Address, "10.96.0.1").await;
    proxy.add(ResourceType::Address, "1.1.1.1").await;
    let second = proxy.resources(3).await;
    let keys: Vec<&str> = second.iter().map(|r| r.key.as_str()).collect();
    assert!(keys.contains(&"10.96.0.1") && keys.contains(&"1.1.1.1"), "{keys:?}");
    assert_eq!(keys[2], "shop/web");
    assert_eq!(second.iter().find(|r| r.key == "1.1.1.1").unwrap().version, 0, "nothing is known of the outside");

    // An endpoint comes, then the Service goes.
    plane.endpoints(&["10.244.0.1", "10.244.0.2"]);
    let changed = proxy.resources(1).await;
    assert_ne!(changed[0].version, second[2].version);
    plane.subscriptions.update(|index| index.set_service(&NamespacedName::new("shop", "web"), None));
    let gone = proxy.resources(3).await;
    assert!(gone[1..].iter().all(|r| r.version == 0 && r.body.is_empty()), "{gone:?}");
    assert_ne!(gone[0].version, first[1].version, "nobody declares the pod's port any more");

    // A new stream that knows the bundle and the policy gets neither again.
    let version = |r: &Resource| ResourceVersion { r#type: r.r#type, key: r.key.clone(), version: r.version };
    let known = vec![version(&first[0]), version(&gone[0]), version(&second[2])];
    let mut again = open(&plane, Some(ID), Hello { known, ..hello() }).await.unwrap();
    let news = again.resources(1).await;
    assert_eq!((news[0].key.as_str(), news[0].version), ("shop/web", 0));
    again.add(ResourceType::Address, "10.244.0.1").await;
    assert_eq!(again.resources(1).await[0].key, "10.244.0.1");
}

#[tokio::test]
async fn a_service_that_an_address_leads_to_is_never_lost() {
    let plane = start().await;
    let mut proxy = open(&plane, Some(ID), hello()).await.unwrap();
    proxy.resources(2).await;
    proxy.add(ResourceType::Address, "10.96.0.1").await;
    let first = proxy.resources(2).await;

    // The proxy dropped the Service while the address was on its way.
    proxy.remove(&[(ResourceType::Service, "shop/web")]).await;
    let again = proxy.resources(1).await;
    assert_eq!((again[0].key.as_str(), again[0].version), ("shop/web", first[1].version));
    plane.endpoints(&["10.244.0.2"]);
    assert_eq!(proxy.resources(1).await[0].key, "shop/web", "it is still subscribed");

    // Both are dropped, in whichever order they are named.
    proxy.remove(&[(ResourceType::Service, "shop/web"), (ResourceType::Address, "10.96.0.1")]).await;
    plane.until(|plane| plane.subscriptions.entries() == 2).await;
    proxy.add(ResourceType::Address, "10.96.0.1").await;
    assert_eq!(proxy.resources(2).await[1].key, "shop/web");
}

#[tokio::test]
async fn what_proxies_say_is_kept_as_evidence() {
    let plane = start().await;
    let mut proxy = open(&plane, Some(ID), hello()).await.unwrap();
    let first = proxy.resources(2).await;
    let report = Report { bundle_sequence: 1, issuer_sha256: vec![7; 32], leaf_not_after: 9, serving: true };
    proxy.send(Kind::Report(report.clone())).await;
    let resource = ResourceVersion { r#type: first[0].r#type, key: String::new(), version: first[0].version };
    let rejected = vec![Rejection { resource: Some(resource), reason: "for a test".into() }];
    proxy.send(Kind::Ack(Ack { accepted: Vec::new(), rejected })).await;
    plane.until(|plane| plane.reports.of_mesh(MESH).iter().any(|(_, state)| state.refused == 1)).await;
    let all = plane.reports.of_mesh(MESH);
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].0.uid.as_str(), all[0].1.report.as_ref()), ("uid-1", Some(&report)));
    let metrics = plane.metrics();
    assert!(metrics.contains(r#"bowline_control_nacks_total{type="trust_bundle"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"bowline_control_connected_proxies{mesh="default"} 1"#), "{metrics}");
    drop(proxy);
    plane.until(|plane| plane.reports.of_mesh(MESH).is_empty()).await;
    assert!(plane.metrics().contains(r#"bowline_control_connected_proxies{mesh="default"} 0"#));
    plane.until(|plane| plane.subscriptions.entries() == 0).await;
}

#[tokio::test]
async fn a_proxy_that_reads_nothing_holds_up_nobody() {
    let plane = start().await;
    let stuck = open(&plane, Some(ID), hello()).await.unwrap();
    let mut other = open(&plane, Some(ID), Hello { slot: "b".into(), ..hello() }).await.unwrap();
    other.resources(2).await;
    stuck.add(ResourceType::Service, "shop/web").await;
    other.add(ResourceType::Service, "shop/web").await;
    other.resources(1).await;
    // Far more than the windows and buffers of a connection hold.
    let many: Vec<String> =
        (0..20_000).map(|n| format!("10.{}.{}.{}", 100 + n / 65_536, n / 256 % 256, n % 256)).collect();
    for round in 0..20 {
        let some: Vec<&str> = many[round..].iter().map(String::as_str).collect();
        plane.endpoints(&some);
        assert_eq!(other.resources(1).await[0].key, "shop/web");
    }
    drop(stuck);
}

#[tokio::test]
async fn a_stream_must_begin_with_hello() {
    let plane = start().await;
    let channel = plane.connect(MESH, Some(ID)).await.unwrap();
    let (tx, rx) = mpsc::channel(1);
    tx.send(ProxyMessage { kind: Some(Kind::Report(Report::default())) }).await.unwrap();
    let status = ControlClient::new(channel).connect(ReceiverStream::new(rx)).await.expect_err("accepted");
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut proxy = open(&plane, Some(ID), hello()).await.unwrap();
    proxy.send(Kind::Hello(hello())).await;
    assert_eq!(proxy.end().await.code(), Code::InvalidArgument);
}

impl Plane {
    /// What the Service `shop/web` has behind it now.
    fn endpoints(&self, ips: &[&str]) {
        let endpoints: Vec<Value> = ips.iter().map(|ip| json!({ "addresses": [ip] })).collect();
        let slice = json!({ "metadata": { "name": "web-a", "namespace": "shop",
            "labels": { "kubernetes.io/service-name": "web" } }, "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080 }], "endpoints": endpoints });
        let view = SliceView::of(&serde_json::from_value(slice).unwrap());
        self.subscriptions.update(|index| index.set_slice(&NamespacedName::new("shop", "web-a"), view));
    }

    fn fill(&self) {
        let service = json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": {
            "clusterIP": "10.96.0.1", "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80 }] } });
        let service = ServiceView::of(&serde_json::from_value(service).unwrap());
        self.subscriptions.set_mesh(MESH, Some(MeshView { trust_domain: "cluster.local".into(), strict: true }));
        self.subscriptions.update(|index| {
            let mut touched: Touched = index.set_service(&NamespacedName::new("shop", "web"), service);
            for pod in self.pods.all() {
                let name = NamespacedName::new("shop", pod.metadata.name.as_deref().unwrap());
                touched.extend(index.set_pod(&name, PodView::of(&pod)));
            }
            touched
        });
        self.endpoints(&["10.244.0.1"]);
    }

    /// Waits for a condition.
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let began = SystemTime::now();
        while !holds(self) {
            assert!(began.elapsed().unwrap() < DEADLINE, "it does not come to hold");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
