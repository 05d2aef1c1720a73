//! Who is told of what, and how little of it.

use super::*;

fn subscriptions() -> Subscriptions {
    filled(Subscriptions::new(ControlMetrics::default()))
}

fn filled(subscriptions: Subscriptions) -> Subscriptions {
    let mut index = shop();
    subscriptions.update(move |empty| {
        std::mem::swap(empty, &mut index);
        BTreeSet::new()
    });
    subscriptions
}

fn subject(text: &str) -> Key {
    let kind = if text.contains('/') { proto::ResourceType::Service } else { proto::ResourceType::Address };
    Key::parse(kind.into(), text, &NamespacedName::new("shop", "web-1")).unwrap()
}

#[test]
fn an_address_brings_its_service() {
    let subscriptions = subscriptions();
    let mut subscription = subscriptions.subscribe("default");
    subscription.add(subject("10.96.0.10")).unwrap();
    let taken: BTreeSet<String> = subscription.take(usize::MAX).unwrap().iter().map(|c| c.key.text()).collect();
    assert_eq!(taken, ["10.96.0.10".to_owned(), "shop/web".to_owned()].into());
    assert!(subscription.take(usize::MAX).unwrap().is_empty());
}

#[test]
fn changes_are_gathered_and_only_the_latest_counts() {
    let subscriptions = subscriptions();
    let mut subscription = subscriptions.subscribe("default");
    subscription.add(subject("shop/legacy")).unwrap();
    let first = subscription.take(usize::MAX).unwrap();
    for ip in 1..100_u8 {
        subscriptions.update(|index| {
            let slice = json!({ "kind": "EndpointSlice", "metadata": { "name": "legacy-a", "namespace": "shop",
                "labels": { "kubernetes.io/service-name": "legacy" } }, "addressType": "IPv4",
                "ports": [{ "port": 8080 }], "endpoints": [{ "addresses": [format!("172.16.0.{ip}")] }] });
            set(index, &slice)
        });
    }
    let taken = subscription.take(usize::MAX).unwrap();
    assert_eq!(taken.len(), 1);
    assert_ne!(taken[0].compiled.version, first[0].compiled.version);
    let service = proto::Service::decode(taken[0].compiled.body.clone()).unwrap();
    assert_eq!(endpoints(&service), ["172.16.0.99 [8080] [] "]);
    // Unrelated changes wake nobody.
    subscriptions
        .update(|index| index.set_pod(&NamespacedName::new("shop", "new"), Some(any_pod_view(200, true, false))));
    assert!(!subscription.has_more());
}

#[test]
fn what_nobody_wants_is_forgotten() {
    let subscriptions = subscriptions();
    let (mut one, mut two) = (subscriptions.subscribe("default"), subscriptions.subscribe("default"));
    one.add(subject("10.96.0.10")).unwrap();
    two.add(subject("10.96.0.10")).unwrap();
    one.take(usize::MAX).unwrap();
    assert_eq!(subscriptions.entries(), 2);
    one.remove(&subject("shop/web"));
    assert_eq!(subscriptions.entries(), 1);
    drop(one);
    assert_eq!(subscriptions.entries(), 1);
    drop(two);
    assert_eq!(subscriptions.entries(), 0);
}

#[test]
fn a_resource_that_cannot_be_loaded_is_not_shipped() {
    let subscriptions = subscriptions();
    let mut subscription = subscriptions.subscribe("default");
    subscription.add(subject("shop/legacy")).unwrap();
    assert_eq!(subscription.take(usize::MAX).unwrap().len(), 1);
    let too_large = SliceView {
        service: NamespacedName::new("shop", "legacy"),
        ports: [(String::new(), 8080)].into(),
        endpoints: (0..200_000_u32)
            .map(|n| EndpointView {
                ip: IpAddr::from((0x0b00_0000 + n).to_be_bytes()),
                pod: String::new(),
                zone: "a-zone-with-a-long-name".into(),
                node: String::new(),
                for_zones: Vec::new(),
                for_nodes: Vec::new(),
                ready: true,
                draining: false,
            })
            .collect(),
    };
    subscriptions.update(|index| index.set_slice(&NamespacedName::new("shop", "legacy-a"), Some(too_large)));
    assert!(!subscription.has_more(), "the last good one stays");
    subscription.add(subject("shop/legacy")).unwrap();
    let kept = subscription.take(usize::MAX).unwrap();
    let service = proto::Service::decode(kept[0].compiled.body.clone()).unwrap();
    assert_eq!(endpoints(&service), ["172.16.0.1 [8080] [] "]);
}

#[test]
fn a_mesh_that_appears_late_is_seen_by_its_proxies() {
    let subscriptions = subscriptions();
    let mut subscription = subscriptions.subscribe("late");
    subscription.add(subject("10.96.0.10")).unwrap();
    assert!(subscription.take(usize::MAX).unwrap().is_empty(), "nothing can be said yet");
    subscriptions.set_mesh("late", Some(mesh(true)));
    assert_eq!(subscription.take(usize::MAX).unwrap().len(), 2);
}

#[test]
fn subscriptions_are_bounded() {
    let subscriptions = subscriptions();
    let mut subscription = subscriptions.subscribe("default");
    for n in 0..u32::try_from(MAX_SUBSCRIPTIONS).unwrap() {
        subscription.add(Key::Subject(Subject::Address(IpAddr::from(n.to_be_bytes())))).unwrap();
    }
    assert_eq!(subscription.add(subject("shop/web")), Err(TooManySubscriptions::OfOne));
}

/// Subscribes to so many addresses that nobody has, others for each `net`.
fn want(subscription: &mut Subscription, net: u8, count: u16) -> Result<(), TooManySubscriptions> {
    (0..count).try_for_each(|n| {
        let [high, low] = n.to_be_bytes();
        subscription.add(Key::Subject(Subject::Address(IpAddr::from([11, net, high, low]))))
    })
}

#[test]
fn who_wants_most_makes_room() {
    // Room for a hundred.
    let subscriptions = filled(Subscriptions::bounded(ControlMetrics::default(), 40_000));
    let mut modest = subscriptions.subscribe("default");
    modest.add(subject("10.96.0.10")).unwrap();
    let [mut greedy, mut greedier] = [(); 2].map(|()| subscriptions.subscribe("default"));
    want(&mut greedy, 1, 40).unwrap();
    want(&mut greedier, 2, 59).unwrap();
    // One more is one too many, and it is not the modest one that goes.
    assert!(!greedier.is_evicted());
    modest.add(subject("10.244.0.1")).unwrap();
    assert_eq!([&modest, &greedy, &greedier].map(Subscription::is_evicted), [false, false, true]);
    assert_eq!(want(&mut greedier, 3, 1), Err(TooManySubscriptions::OfAll));
    drop(greedier);
    assert_eq!(subscriptions.entries(), 42);
    // Who is the one that wants most is told so at once.
    assert_eq!(want(&mut greedy, 4, 100), Err(TooManySubscriptions::OfAll));
    assert!(!modest.is_evicted());
    drop(greedy);
    // What is dropped is room again.
    for net in 1..50 {
        want(&mut modest, net, 90).unwrap();
        for n in 0..90 {
            modest.remove(&Key::Subject(Subject::Address(IpAddr::from([11, net, 0, n]))));
        }
    }
    assert_eq!(modest.take(usize::MAX).unwrap().len(), 3, "two addresses, and the Service of one");
}

#[tokio::test]
async fn who_made_room_is_woken() {
    let subscriptions = filled(Subscriptions::bounded(ControlMetrics::default(), 4_000));
    let [mut first, mut second] = [(); 2].map(|()| subscriptions.subscribe("default"));
    want(&mut first, 1, 6).unwrap();
    first.take(usize::MAX).unwrap();
    first.changed().await;
    want(&mut second, 2, 5).unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(30), first.changed()).await.expect("it sleeps on");
    assert!(first.is_evicted());
}
