//! A proxy's control side against a control plane over real TLS sockets: from the first leaf to the last heartbeat.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "control_plane/fake.rs"]
mod fake;
#[path = "control_plane/rotation.rs"]
mod rotation;

use std::{net::IpAddr, sync::Arc, sync::atomic::Ordering, time::Duration};

use bowline_proxy::{
    contract::proto::{
        self, Ack, Address, Digest, InboundPolicy, MtlsMode, Resource, ResourceType, Service, ServiceRef, Subscribe,
        address, proxy_message::Kind as FromProxy,
    },
    control::state::Target,
};
use fake::{Ca, OPERATOR, SOON, Stream, WEB, World, resource};
use tokio::time::timeout;
use tonic::Status;

const IP: &str = "10.0.0.1";

fn ip() -> IpAddr {
    IP.parse().unwrap()
}

fn policy(version: u64, mode: MtlsMode) -> Resource {
    let body = InboundPolicy { mtls_mode: mode.into(), ports: vec![] };
    resource(ResourceType::InboundPolicy, "", version, &body)
}

fn address_of(name: &str, version: u64) -> Resource {
    let service = ServiceRef { namespace: "shop".into(), name: name.into() };
    let body = Address { target: Some(address::Target::Service(service)) };
    resource(ResourceType::Address, IP, version, &body)
}

fn service(name: &str, version: u64, ports: &[u32]) -> Resource {
    let ports = ports.iter().map(|p| proto::ServicePort { port: *p, ..Default::default() }).collect();
    let body = Service { namespace: "shop".into(), name: name.into(), ports, ..Service::default() };
    resource(ResourceType::Service, &format!("shop/{name}"), version, &body)
}

fn ack(message: FromProxy) -> Option<Ack> {
    if let FromProxy::Ack(ack) = message { Some(ack) } else { None }
}

fn subscribe(message: FromProxy) -> Option<Subscribe> {
    if let FromProxy::Subscribe(s) = message { Some(s) } else { None }
}

fn report(message: FromProxy) -> Option<proto::Report> {
    if let FromProxy::Report(r) = message { Some(r) } else { None }
}

fn keys(list: &[proto::ResourceKey]) -> Vec<&str> {
    list.iter().map(|k| k.key.as_str()).collect()
}

/// Resolves in the background.
fn resolving(world: &World) -> tokio::task::JoinHandle<Target> {
    let state = Arc::clone(&world.state);
    tokio::spawn(async move { state.resolve(ip()).await.unwrap() })
}

/// Ports of the Service behind the address.
fn ports(world: &World) -> Option<Vec<u16>> {
    let Some(Target::Service(_, watch)) = world.state.peek(ip()) else { return None };
    let service = watch.borrow().clone()?;
    Some(service.ports.iter().map(|p| p.port).collect())
}

/// A stream on which the address and its Service were sent.
async fn with_service(world: &mut World) -> Stream {
    let mut stream = world.stream().await;
    world.until("connected", |w| w.state.is_connected()).await;
    let asking = resolving(world);
    assert_eq!(keys(&stream.find(subscribe).await.add), [IP]);
    stream.send(vec![address_of("web", 11), service("web", 12, &[80])]).await;
    stream.find(ack).await;
    timeout(SOON, asking).await.unwrap().unwrap();
    stream
}

#[tokio::test]
async fn a_proxy_gets_its_leaf_with_its_token() {
    let world = World::new().await;
    world.generation(1).await;
    let current = world.store.current().unwrap();
    assert_eq!((current.id.as_str(), current.bundle.sequence), (WEB, 1));
    let asked = world.asked.lock().unwrap();
    assert_eq!((asked.len(), asked[0].token.as_str(), &asked[0].uris), (1, "the-token", &vec![WEB.to_owned()]));
    assert!(world.health.identity.error().is_none());
}

#[tokio::test]
async fn a_pod_whose_dns_does_not_know_the_control_plane_finds_it_by_its_addresses() {
    let mut world = World::unnamed(&[[127, 0, 0, 1].into()]).await;
    world.generation(1).await;
    let _stream = world.stream().await;
    // Without them it says what is wrong, and with wrong ones both.
    let world = World::unnamed(&[]).await;
    world.until("an error", |w| w.health.identity.error().is_some_and(|e| e.contains("bowline-control.invalid"))).await;
    let world = World::unnamed(&[[127, 0, 0, 99].into()]).await;
    let told = |e: String| e.contains("by name: ") && e.contains("127.0.0.99");
    world.until("both errors", |w| w.health.identity.error().is_some_and(told)).await;
}

#[tokio::test]
async fn a_leaf_that_lost_trust_is_renewed_at_once_with_another_key() {
    let (old, new, server) = (Arc::new(Ca::new("old")), Arc::new(Ca::new("new")), Ca::new("server"));
    let world = World::with(Arc::clone(&old), &server, OPERATOR).await;
    world.mount(&[&old, &server], 1);
    world.generation(1).await;
    {
        let mut signing = world.signing.lock().unwrap();
        signing.ca = Arc::clone(&new);
        signing.sequence = 2;
    }
    let before = world.store.current().unwrap().issuer_sha256;
    assert!(world.store.install_bundle(fake::checked(&[&new, &server], 2)).unwrap());
    world.until("another issuer", |w| w.store.current().unwrap().issuer_sha256 != before).await;
    let asked = world.asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].key, asked[1].key);
}

#[tokio::test]
async fn half_of_its_life_later_a_leaf_is_renewed() {
    let world = World::new().await;
    world.signing.lock().unwrap().life = Duration::from_secs(4);
    world.generation(2).await;
    let ends: Vec<_> = world.asked.lock().unwrap().iter().map(|a| a.key.clone()).collect();
    assert!(ends.len() >= 2 && ends[0] != ends[1]);
}

#[tokio::test]
async fn a_control_plane_with_another_identity_never_sees_the_token() {
    let ca = Arc::new(Ca::new("root"));
    let world = World::with(Arc::clone(&ca), &ca, "spiffe://mesh.test/ns/shop/sa/thief").await;
    world.until("refused twice", |w| w.health.identity.failures() >= 2).await;
    let error = world.health.identity.error().unwrap();
    assert!(error.contains("sa/thief") && error.contains(OPERATOR), "{error}");
    assert!(world.asked.lock().unwrap().is_empty() && world.store.current().is_none());
}

#[tokio::test]
async fn a_control_plane_of_another_root_never_sees_the_token() {
    let world = World::with(Arc::new(Ca::new("root")), &Ca::new("foreign"), OPERATOR).await;
    world.until("refused twice", |w| w.health.identity.failures() >= 2).await;
    assert!(world.health.identity.error().unwrap().contains("UnknownIssuer"));
    assert!(world.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_is_named_and_tried_again() {
    let world = World::new().await;
    world.signing.lock().unwrap().refuse = Some(Status::permission_denied("pod shop/web-1 is gone"));
    world.until("refused", |w| w.health.identity.error().is_some()).await;
    let error = world.health.identity.error().unwrap();
    assert!(error.contains("pod shop/web-1 is gone") && error.contains("check that the pod"), "{error}");
    assert!(world.store.current().is_none());
    world.signing.lock().unwrap().refuse = None;
    world.generation(1).await;
    world.until("no error", |w| w.health.identity.error().is_none()).await;
}

#[tokio::test]
async fn a_leaf_for_somebody_else_is_not_used() {
    let world = World::new().await;
    world.signing.lock().unwrap().instead = Some("spiffe://mesh.test/ns/shop/sa/api".into());
    world.until("refused twice", |w| w.health.identity.failures() >= 2).await;
    assert!(world.health.identity.error().unwrap().contains("sa/api"));
    assert!(world.store.current().is_none());
}

#[tokio::test]
async fn a_stream_says_who_it_is_and_subscribes_on_first_use() {
    let mut world = World::new().await;
    let mut stream = world.stream().await;
    assert!(stream.authenticated);
    assert_eq!((stream.hello.pod_name.as_str(), stream.hello.slot.as_str()), ("web-1", "a"));
    assert!(stream.hello.known.is_empty());
    let first = stream.find(report).await;
    let current = world.store.current().unwrap();
    assert_eq!((first.bundle_sequence, first.leaf_not_after, first.serving), (1, current.not_after, true));
    assert_eq!(first.issuer_sha256, current.issuer_sha256.to_vec());

    stream.send(vec![policy(5, MtlsMode::Permissive)]).await;
    let acked = stream.find(ack).await;
    assert_eq!((acked.accepted[0].version, acked.rejected.len()), (5, 0));
    assert!(!world.state.inbound_policy().strict);

    let asking = resolving(&world);
    assert_eq!(keys(&stream.find(subscribe).await.add), [IP]);
    // The Service may come before the address that names it.
    stream.send(vec![service("web", 12, &[80])]).await;
    stream.find(ack).await;
    stream.send(vec![address_of("web", 11)]).await;
    let Target::Service(key, _) = timeout(SOON, asking).await.unwrap().unwrap() else { panic!("no Service") };
    assert_eq!(key.to_string(), "shop/web");
    assert_eq!(ports(&world), Some(vec![80]));
}

#[tokio::test]
async fn a_new_stream_greets_with_what_is_known_and_nothing_is_lost_between() {
    let mut world = World::new().await;
    let stream = with_service(&mut world).await;
    drop(stream);
    let mut stream = world.stream().await;
    let mut known: Vec<_> = stream.hello.known.iter().map(|k| (k.key.as_str(), k.version)).collect();
    known.sort_unstable();
    assert_eq!(known, [(IP, 11), ("shop/web", 12)]);
    assert_eq!(ports(&world), Some(vec![80]), "what is known stays in use");
    stream.send(vec![service("web", 13, &[80, 81])]).await;
    stream.find(ack).await;
    assert_eq!(ports(&world), Some(vec![80, 81]));
}

#[tokio::test]
async fn what_is_refused_leaves_the_last_good_one_in_use() {
    let mut world = World::new().await;
    let mut stream = with_service(&mut world).await;
    let bad = service("web", 13, &[99_999]);
    stream.send(vec![bad, policy(6, MtlsMode::Permissive), policy(0, MtlsMode::Strict)]).await;
    let answer = stream.find(ack).await;
    assert_eq!(answer.accepted.iter().map(|a| a.version).collect::<Vec<_>>(), [6]);
    let refused: Vec<_> = answer.rejected.iter().map(|r| r.resource.as_ref().unwrap().version).collect();
    assert_eq!(refused, [0, 13]);
    assert!(answer.rejected[1].reason.contains("99999"));
    assert_eq!(ports(&world), Some(vec![80]));
    assert!(!world.state.inbound_policy().strict, "the policy is not given up");
    assert_eq!(world.health.control.rejected.load(Ordering::Relaxed), 2);
    drop(stream);
    let stream = world.stream().await;
    assert!(stream.hello.known.iter().any(|k| k.key == "shop/web" && k.version == 12), "the version in use");
}

#[tokio::test]
async fn a_heartbeat_that_agrees_keeps_the_stream_and_one_that_differs_renews_it() {
    let mut world = World::new().await;
    let mut stream = world.stream().await;
    stream.send(vec![policy(6, MtlsMode::Strict)]).await;
    stream.find(ack).await;
    let digest = |xor| vec![Digest { r#type: ResourceType::InboundPolicy.into(), count: 1, xor }];
    stream.beat(digest(6)).await;
    stream.send(vec![policy(7, MtlsMode::Strict)]).await;
    stream.find(ack).await;
    assert_eq!(world.health.control.resyncs.load(Ordering::Relaxed), 0);
    stream.beat(digest(8)).await;
    let next = world.stream().await;
    assert_eq!(world.health.control.resyncs.load(Ordering::Relaxed), 1);
    assert_eq!(next.hello.known[0].version, 7);
}

#[tokio::test]
async fn a_silent_stream_is_renewed() {
    let mut world = World::new().await;
    let mut stream = world.stream().await;
    stream.find(report).await;
    world.until("connected", |w| w.state.is_connected()).await;
    tokio::time::pause();
    tokio::time::advance(bowline_proxy::control::stream::SILENCE + Duration::from_secs(1)).await;
    tokio::time::resume();
    let _next = world.stream().await;
    assert_eq!(world.health.control.resyncs.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_bundle_from_the_stream_is_trusted_at_once_and_reported() {
    let mut world = World::new().await;
    let mut stream = world.stream().await;
    assert_eq!(stream.find(report).await.bundle_sequence, 1);
    let bundle = resource(ResourceType::TrustBundle, "", 21, &fake::bundle(&[&world.ca], 5));
    stream.send(vec![bundle]).await;
    assert_eq!(stream.find(report).await.bundle_sequence, 5);
    assert_eq!(world.store.current().unwrap().bundle.sequence, 5);
    // An older one, from a replica that lags behind or from the mount, changes nothing.
    world.mount(&[&world.ca], 3);
    let older = resource(ResourceType::TrustBundle, "", 22, &fake::bundle(&[&world.ca], 4));
    stream.send(vec![older]).await;
    assert_eq!(stream.find(ack).await.rejected, []);
    assert_eq!(world.store.current().unwrap().bundle.sequence, 5);
}

#[tokio::test]
async fn what_is_gone_is_unsubscribed_and_its_users_learn_of_it() {
    let mut world = World::new().await;
    let mut stream = with_service(&mut world).await;
    let Some(Target::Service(_, mut watch)) = world.state.peek(ip()) else { panic!("no Service") };
    watch.mark_unchanged();
    let gone = Resource { r#type: ResourceType::Address.into(), key: IP.into(), ..Default::default() };
    stream.send(vec![gone]).await;
    assert_eq!(keys(&stream.find(subscribe).await.remove), ["shop/web"]);
    timeout(SOON, watch.changed()).await.unwrap().unwrap();
    assert!(watch.borrow().is_none());
    assert!(matches!(world.state.peek(ip()), Some(Target::Outside)));
}

#[tokio::test]
async fn a_proxy_that_drains_reports_that_it_no_longer_serves() {
    let mut world = World::new().await;
    let mut stream = world.stream().await;
    assert!(stream.find(report).await.serving);
    world.health.serving.set_draining();
    assert!(!stream.find(report).await.serving);
}

#[tokio::test]
async fn a_destination_that_nobody_knows_is_named_while_the_control_plane_is_gone() {
    let mut world = World::new().await;
    let stream = with_service(&mut world).await;
    world.stop();
    drop(stream);
    world.until("disconnected", |w| !w.state.is_connected()).await;
    let unknown: IpAddr = "10.0.0.2".parse().unwrap();
    let error = timeout(SOON, world.state.resolve(unknown)).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("10.0.0.2"));
    assert!(matches!(world.state.resolve(ip()).await, Ok(Target::Service(..))), "what is known is reached");
}
