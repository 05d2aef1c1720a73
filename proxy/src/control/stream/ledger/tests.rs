use proptest::prelude::*;

use super::*;

fn ip(n: u8) -> Key {
    Key::Address([10, 0, 0, n].into())
}

fn beat(digests: Vec<Digest>) -> Heartbeat {
    Heartbeat { digests }
}

fn names(keys: &[ResourceKey]) -> Vec<&str> {
    keys.iter().map(|k| k.key.as_str()).collect()
}

#[test]
fn a_new_stream_greets_with_what_is_held_and_asks_for_the_rest() {
    let mut ledger = Ledger::default();
    let (known, add) = ledger.restart(vec![ip(1)]);
    assert!(known.is_empty());
    assert_eq!(names(&add), ["10.0.0.1"]);
    ledger.sent(Name::TrustBundle, 7, true);
    ledger.sent(Name::Key(ip(1)), 0, true);
    ledger.sent(Name::Key(ip(2)), 9, false);
    let (mut known, add) = ledger.restart(vec![ip(1), ip(2)]);
    known.sort_by_key(|k| k.r#type);
    assert_eq!(known.iter().map(|k| (k.key.as_str(), k.version)).collect::<Vec<_>>(), [("", 7), ("10.0.0.1", 0)]);
    assert_eq!(names(&add), ["10.0.0.2"], "what was refused is not held");
}

#[test]
fn a_refused_version_counts_in_the_digest_but_is_not_held() {
    let mut ledger = Ledger::default();
    ledger.restart(vec![ip(1)]);
    ledger.sent(Name::Key(ip(1)), 5, true);
    ledger.sent(Name::Key(ip(1)), 6, false);
    assert_eq!(ledger.digest(ResourceType::Address), Digest { r#type: 3, count: 1, xor: 6 });
    let (known, _) = ledger.restart(vec![ip(1)]);
    assert_eq!(known[0].version, 5);
}

#[test]
fn divergence_is_told_from_messages_on_their_way() {
    let start = Instant::now();
    let mut ledger = Ledger::default();
    ledger.restart(vec![]);
    ledger.sent(Name::TrustBundle, 7, true);
    let good = beat(vec![Digest { r#type: 1, count: 1, xor: 7 }, Digest { r#type: 77, count: 1, xor: 1 }]);
    let bad = beat(vec![Digest { r#type: 1, count: 1, xor: 8 }]);
    assert_eq!(ledger.judge(&good, start), Verdict::Agrees);
    assert_eq!(ledger.judge(&bad, start), Verdict::Diverged, "nothing was on its way");
    ledger.change(Changes { add: vec![ip(1)], remove: vec![] }, start);
    for _ in 0..2 {
        assert_eq!(ledger.judge(&bad, start + Duration::from_secs(1)), Verdict::Wait);
    }
    assert_eq!(ledger.judge(&bad, start + Duration::from_secs(1)), Verdict::Diverged, "no excuse for ever");
    assert_eq!(ledger.judge(&good, start), Verdict::Agrees);
    assert_eq!(ledger.judge(&bad, start + SETTLING), Verdict::Diverged);
}

#[test]
fn a_parked_service_waits_for_two_heartbeats() {
    let key = |n: usize| ServiceKey { namespace: "n".into(), name: format!("s{n}") };
    let mut ledger = Ledger::default();
    assert!((0..MAX_PARKED).all(|n| ledger.park(key(n), None)));
    assert!(!ledger.park(key(MAX_PARKED), None) && ledger.park(key(0), None));
    assert!(ledger.unpark().is_empty());
    assert_eq!(ledger.take_parked(&key(1)), Some(None));
    assert_eq!(ledger.unpark().len(), MAX_PARKED - 1);
    assert_eq!(ledger.take_parked(&key(2)), None);
}

#[test]
fn names_are_read_back_and_others_are_not() {
    for name in [
        Name::TrustBundle,
        Name::InboundPolicy,
        Name::Key(ip(3)),
        Name::Key(Key::Service(ServiceKey { namespace: "a".into(), name: "b".into() })),
    ] {
        assert_eq!(Name::parse(name.kind().into(), &name.text()), Some(name));
    }
    for (kind, key) in [(0, ""), (1, "x"), (3, "10.0.0"), (4, "noslash"), (99, "")] {
        assert_eq!(Name::parse(kind, key), None, "{kind} {key}");
    }
}

proptest! {
    /// Both sides see the same sends and drops, in any order: the digests agree; one send more and they do not.
    #[test]
    fn the_digest_is_that_of_the_sender(sends in proptest::collection::vec((0..20u8, 1..1000u64, any::<bool>()), 0..60)) {
        let mut ledger = Ledger::default();
        let mut theirs = HashMap::new();
        for (n, version, dropped) in sends {
            if dropped {
                ledger.change(Changes { add: vec![], remove: vec![ip(n)] }, Instant::now());
                theirs.remove(&n);
            } else {
                ledger.sent(Name::Key(ip(n)), version, version % 3 != 0);
                theirs.insert(n, version);
            }
        }
        let digest = ledger.digest(ResourceType::Address);
        prop_assert_eq!(digest.count as usize, theirs.len());
        prop_assert_eq!(digest.xor, theirs.values().fold(0, |a, b| a ^ b));
        ledger.sent(Name::Key(ip(99)), 1001, true);
        prop_assert_ne!(ledger.digest(ResourceType::Address), digest);
    }
}
