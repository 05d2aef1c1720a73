use std::{collections::HashSet, net::Ipv4Addr, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::contract::resource::Selection;

fn ip(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n))
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: name.into() }
}

fn service(name: &str) -> Arc<Service> {
    Arc::new(Service { key: key(name), ports: Vec::new(), selection: Selection::default() })
}

fn names(name: &str) -> Option<Arc<Address>> {
    Some(Arc::new(Address::Service(key(name))))
}

#[tokio::test(start_paused = true)]
async fn first_use_subscribes_and_waits_for_address_and_service() {
    let state = State::new();
    state.set_connected(true);
    let mut changes = state.subscription_changes();
    let asking = tokio::spawn({
        let state = Arc::clone(&state);
        async move { state.resolve(ip(1)).await }
    });
    changes.changed().await.unwrap();
    assert_eq!(
        state.take_subscription_delta(),
        SubscriptionDelta { add: vec![Subscription::Address(ip(1))], remove: vec![] }
    );
    state.set_address(ip(1), names("web"));
    assert!(state.peek(ip(1)).is_none(), "its Service is not known yet");
    state.set_service(key("web"), Some(service("web")));
    let Ok(Target::Service(k, watch)) = asking.await.unwrap() else { panic!("no Service") };
    assert_eq!(k, key("web"));
    assert!(watch.borrow().is_some());
    assert_eq!(state.take_subscription_delta(), SubscriptionDelta::default());
}

#[tokio::test(start_paused = true)]
async fn a_silent_control_plane_is_waited_for_and_an_absent_one_is_not() {
    let state = State::new();
    state.set_connected(true);
    let before = Instant::now();
    assert_eq!(state.resolve(ip(1)).await.unwrap_err(), Unavailable(ip(1)));
    assert_eq!(before.elapsed().as_secs(), RESOLVE_DEADLINE.as_secs());
    state.set_connected(false);
    let before = Instant::now();
    assert!(state.resolve(ip(2)).await.is_err());
    assert_eq!(before.elapsed().as_secs(), RECONNECT_GRACE.as_secs());
    state.set_address(ip(1), None);
    assert!(matches!(state.resolve(ip(1)).await, Ok(Target::Outside)), "what is known needs no stream");
}

#[tokio::test]
async fn local_addresses_are_outside_without_asking() {
    let state = State::new();
    for local in ["127.0.0.1", "169.254.1.1", "::1", "fe80::1", "::ffff:127.0.0.1", "0.0.0.0"] {
        assert!(matches!(state.peek(local.parse().unwrap()), Some(Target::Outside)), "{local}");
        assert!(matches!(state.resolve(local.parse().unwrap()).await, Ok(Target::Outside)), "{local}");
    }
    assert_eq!(state.take_subscription_delta(), SubscriptionDelta::default());
    assert!(matches!(State::fixed().resolve(ip(1)).await, Ok(Target::Outside)));
}

#[test]
fn inbound_is_strict_until_known() {
    let state = State::new();
    assert!(state.inbound_policy().strict && !state.inbound_known());
    state.set_inbound_policy(Arc::new(InboundPolicy { strict: false, ports: vec![] }));
    assert!(!state.inbound_policy().strict && state.inbound_known());
}

#[test]
fn a_service_is_wanted_as_long_as_an_address_names_it() {
    let state = State::new();
    state.set_address(ip(1), names("web"));
    state.set_address(ip(2), names("web"));
    state.set_service(key("web"), Some(service("web")));
    let Some(Target::Service(_, mut watch)) = state.peek(ip(1)) else { panic!("no Service") };
    assert_eq!(state.wanted().len(), 3);
    state.set_address(ip(1), None);
    assert!(state.wants(&Subscription::Service(key("web"))));
    assert!(!watch.has_changed().unwrap());
    state.set_address(ip(2), names("api"));
    assert!(!state.wants(&Subscription::Service(key("web"))));
    assert!(watch.borrow_and_update().is_none(), "its watchers know that it is gone");
    assert_eq!(state.take_subscription_delta().remove, vec![Subscription::Service(key("web"))]);
}

#[test]
fn a_service_watches_follow_its_changes() {
    let state = State::new();
    state.set_address(ip(1), names("web"));
    state.set_service(key("web"), None);
    let Some(Target::Service(_, mut watch)) = state.peek(ip(1)) else { panic!("no Service") };
    assert!(watch.borrow_and_update().is_none());
    state.set_service(key("web"), Some(service("web")));
    assert!(watch.has_changed().unwrap());
}

#[test]
fn the_longest_unused_make_room_and_are_unsubscribed() {
    let state = State::with(false, 16);
    for n in 0..16 {
        state.set_address(ip(n), None);
    }
    let _ = state.take_subscription_delta();
    assert!(state.peek(ip(0)).is_some(), "used last");
    state.set_address(ip(100), None);
    assert!(state.peek(ip(0)).is_some() && state.peek(ip(100)).is_some());
    assert!(state.peek(ip(1)).is_none() && state.peek(ip(2)).is_none() && state.peek(ip(3)).is_none());
    assert_eq!(state.evicted(), 3);
    let mut changes = state.take_subscription_delta();
    changes.remove.sort();
    assert_eq!(changes.remove, (1..4).map(|n| Subscription::Address(ip(n))).collect::<Vec<_>>());
}

#[test]
fn a_watched_service_is_the_last_to_go() {
    let state = State::with(false, 8);
    state.set_address(ip(0), names("web"));
    state.set_service(key("web"), Some(service("web")));
    let Some(Target::Service(_, watch)) = state.peek(ip(0)) else { panic!("no Service") };
    for n in 1..100 {
        state.set_address(ip(n), None);
    }
    assert!(state.peek(ip(0)).is_some());
    drop(watch);
    for n in 100..120 {
        state.set_address(ip(n), None);
    }
    assert!(state.peek(ip(0)).is_none());
    assert!(!state.wants(&Subscription::Service(key("web"))));
}

#[test]
fn what_is_dropped_and_wanted_again_is_asked_for_from_the_beginning() {
    let state = State::with(false, 8);
    state.set_address(ip(0), names("web"));
    state.set_service(key("web"), Some(service("web")));
    let _ = state.take_subscription_delta();
    // Makes room by dropping the oldest, which is used again before the stream heard of it.
    for n in 1..9 {
        state.set_address(ip(n), None);
    }
    assert!(state.peek(ip(0)).is_none());
    state.set_address(ip(0), names("web"));
    let changes = state.take_subscription_delta();
    for again in [Subscription::Address(ip(0)), Subscription::Service(key("web"))] {
        assert!(changes.remove.contains(&again) && changes.add.contains(&again), "{again:?} in {changes:?}");
    }
}

#[test]
fn a_service_that_does_not_come_with_its_address_is_asked_for() {
    let state = State::new();
    state.set_address(ip(0), names("web"));
    assert!(state.take_subscription_delta().add.contains(&Subscription::Service(key("web"))));
    state.set_address(ip(1), names("api"));
    state.set_service(key("api"), Some(service("api")));
    assert_eq!(state.take_subscription_delta().add, vec![Subscription::Address(ip(1))]);
}

#[derive(Debug, Clone)]
enum Op {
    Peek(u32),
    Outside(u32),
    Names(u32, u8),
    Take,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..40u32).prop_map(Op::Peek),
        (0..40u32).prop_map(Op::Outside),
        ((0..40u32), 0..4u8).prop_map(|(n, s)| Op::Names(n, s)),
        Just(Op::Take),
    ]
}

proptest! {
    /// Whatever happens, a stream that follows the changes is subscribed to exactly what is wanted, and the bound holds.
    #[test]
    fn deltas_add_up_to_what_is_wanted(ops in proptest::collection::vec(op(), 0..200)) {
        let state = State::with(false, 8);
        let mut addresses = HashSet::new();
        let mut removed_services = HashSet::new();
        for op in ops {
            match op {
                Op::Peek(n) => { let _ = state.peek(ip(n)); }
                Op::Outside(n) => state.set_address(ip(n), None),
                Op::Names(n, s) => state.set_address(ip(n), names(&format!("s{s}"))),
                Op::Take => {}
            }
            let changes = state.take_subscription_delta();
            for key in changes.remove {
                match key {
                    Subscription::Address(ip) => { prop_assert!(addresses.remove(&ip)); }
                    Subscription::Service(key) => { removed_services.insert(key); }
                }
            }
            for key in changes.add {
                match key {
                    Subscription::Address(ip) => { prop_assert!(addresses.insert(ip)); }
                    Subscription::Service(key) => { removed_services.remove(&key); }
                }
            }
            let mut wanted = HashSet::new();
            for key in state.wanted() {
                if let Subscription::Address(ip) = key {
                    wanted.insert(ip);
                }
            }
            prop_assert!(wanted.len() <= 8);
            prop_assert_eq!(&wanted, &addresses);
            for key in &removed_services {
                prop_assert!(!state.wants(&Subscription::Service(key.clone())));
            }
        }
    }
}
