use proptest::prelude::*;

use super::*;

fn ip(n: u8) -> Subscription {
    Subscription::Address([10, 0, 0, n].into())
}

fn beat(digests: Vec<Digest>) -> Heartbeat {
    Heartbeat { digests }
}

fn names(keys: &[ResourceKey]) -> Vec<&str> {
    keys.iter().map(|k| k.key.as_str()).collect()
}

#[test]
fn a_new_stream_greets_with_what_is_held_and_asks_for_the_rest() {
    let mut versions = Versions::default();
    let (known, add) = versions.restart(vec![ip(1)]);
    assert!(known.is_empty());
    assert_eq!(names(&add), ["10.0.0.1"]);
    versions.sent(ResourceName::TrustBundle, 7, true);
    versions.sent(ResourceName::OnDemand(ip(1)), 0, true);
    versions.sent(ResourceName::OnDemand(ip(2)), 9, false);
    let (mut known, add) = versions.restart(vec![ip(1), ip(2)]);
    known.sort_by_key(|k| k.r#type);
    assert_eq!(known.iter().map(|k| (k.key.as_str(), k.version)).collect::<Vec<_>>(), [("", 7), ("10.0.0.1", 0)]);
    assert_eq!(names(&add), ["10.0.0.2"], "what was refused is not held");
}

#[test]
fn a_refused_version_counts_in_the_digest_but_is_not_held() {
    let mut versions = Versions::default();
    versions.restart(vec![ip(1)]);
    versions.sent(ResourceName::OnDemand(ip(1)), 5, true);
    versions.sent(ResourceName::OnDemand(ip(1)), 6, false);
    assert_eq!(versions.digest(ResourceType::Address), Digest { r#type: 3, count: 1, xor: 6 });
    let (known, _) = versions.restart(vec![ip(1)]);
    assert_eq!(known[0].version, 5);
}

#[test]
fn divergence_is_told_from_messages_on_their_way() {
    let start = Instant::now();
    let mut versions = Versions::default();
    versions.restart(vec![]);
    versions.sent(ResourceName::TrustBundle, 7, true);
    let good = beat(vec![Digest { r#type: 1, count: 1, xor: 7 }, Digest { r#type: 77, count: 1, xor: 1 }]);
    let bad = beat(vec![Digest { r#type: 1, count: 1, xor: 8 }]);
    assert_eq!(versions.check_digests(&good, start), DigestCheck::InSync);
    assert_eq!(versions.check_digests(&bad, start), DigestCheck::Diverged, "nothing was on its way");
    versions.change(SubscriptionDelta { add: vec![ip(1)], remove: vec![] }, start);
    for _ in 0..2 {
        assert_eq!(versions.check_digests(&bad, start + Duration::from_secs(1)), DigestCheck::Unsettled);
    }
    assert_eq!(
        versions.check_digests(&bad, start + Duration::from_secs(1)),
        DigestCheck::Diverged,
        "no excuse for ever"
    );
    assert_eq!(versions.check_digests(&good, start), DigestCheck::InSync);
    assert_eq!(versions.check_digests(&bad, start + SETTLING), DigestCheck::Diverged);
}

#[test]
fn a_parked_service_waits_for_two_heartbeats() {
    let key = |n: usize| ServiceKey { namespace: "n".into(), name: format!("s{n}") };
    let mut versions = Versions::default();
    assert!((0..MAX_PARKED).all(|n| versions.park(key(n), None)));
    assert!(!versions.park(key(MAX_PARKED), None) && versions.park(key(0), None));
    assert!(versions.unpark().is_empty());
    assert_eq!(versions.take_parked(&key(1)), Some(None));
    assert_eq!(versions.unpark().len(), MAX_PARKED - 1);
    assert_eq!(versions.take_parked(&key(2)), None);
}

#[test]
fn names_are_read_back_and_others_are_not() {
    for name in [
        ResourceName::TrustBundle,
        ResourceName::InboundPolicy,
        ResourceName::OnDemand(ip(3)),
        ResourceName::OnDemand(Subscription::Service(ServiceKey { namespace: "a".into(), name: "b".into() })),
    ] {
        assert_eq!(ResourceName::parse(name.kind().into(), &name.text()), Some(name));
    }
    for (kind, key) in [(0, ""), (1, "x"), (3, "10.0.0"), (4, "noslash"), (99, "")] {
        assert_eq!(ResourceName::parse(kind, key), None, "{kind} {key}");
    }
}

proptest! {
    /// Both sides see the same sends and drops, in any order: the digests agree; one send more and they do not.
    #[test]
    fn the_digest_is_that_of_the_sender(sends in proptest::collection::vec((0..20u8, 1..1000u64, any::<bool>()), 0..60)) {
        let mut versions = Versions::default();
        let mut theirs = HashMap::new();
        for (n, version, dropped) in sends {
            if dropped {
                versions.change(SubscriptionDelta { add: vec![], remove: vec![ip(n)] }, Instant::now());
                theirs.remove(&n);
            } else {
                versions.sent(ResourceName::OnDemand(ip(n)), version, version % 3 != 0);
                theirs.insert(n, version);
            }
        }
        let digest = versions.digest(ResourceType::Address);
        prop_assert_eq!(digest.count as usize, theirs.len());
        prop_assert_eq!(digest.xor, theirs.values().fold(0, |a, b| a ^ b));
        versions.sent(ResourceName::OnDemand(ip(99)), 1001, true);
        prop_assert_ne!(versions.digest(ResourceType::Address), digest);
    }
}
