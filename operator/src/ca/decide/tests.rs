use std::time::Duration;

use bowline_proxy::identity::spiffe::SpiffeId;
use proptest::prelude::*;

use super::*;
use crate::ca::{issue, sign::MeshCa, testing};

fn policy() -> Policy {
    testing::policy("default")
}

fn at(hours: u64) -> SystemTime {
    testing::start() + Duration::from_secs(hours * 3600)
}

fn settle(state: Option<CaState>, policy: &Policy, now: SystemTime) -> CaState {
    let writes = decide(state.as_ref(), policy, now);
    match state {
        Some(state) if writes.is_empty() => state,
        state => issue::apply(state.as_ref(), &writes, policy, now).unwrap(),
    }
}

#[test]
fn the_first_state_has_one_root_and_one_issuer() {
    let state = settle(None, &policy(), at(0));
    assert_eq!((state.roots.len(), state.issuers.len(), state.bundle_sequence), (1, 1, 1));
    assert_eq!(decide(Some(&state), &policy(), at(0)), []);
}

#[test]
fn an_issuer_is_replaced_at_half_of_its_life_below_the_same_root() {
    let first = settle(None, &policy(), at(0));
    assert_eq!(decide(Some(&first), &policy(), at(49)), []);
    let change = next_change(&first).unwrap();
    assert!(change > at(49) && change <= at(50));
    let second = settle(Some(first.clone()), &policy(), at(51));
    assert_eq!(second.issuers.len(), 2);
    assert_eq!(second.issuers[0].phase, AuthorityPhase::Retiring);
    assert_eq!(second.issuers[1].root.as_ref(), Some(&first.roots[0].id));
    assert_eq!((&second.roots, second.bundle_sequence), (&first.roots, first.bundle_sequence));
    assert_eq!(decide(Some(&second), &policy(), at(51)), []);
    let third = settle(Some(second), &policy(), at(101));
    assert!(third.issuers.iter().all(|i| i.id != first.issuers[0].id), "an expired issuer stayed");
}

#[test]
fn an_issuer_never_outlives_its_root_and_is_not_replaced_in_vain() {
    let mut short = policy();
    short.root_lifetime = Duration::from_secs(120 * 3600);
    let state = settle(None, &short, at(0));
    let state = settle(Some(state), &short, at(60));
    assert_eq!(state.issuers[1].not_after, state.roots[0].not_after);
    assert_eq!(decide(Some(&state), &short, at(99)), []);
}

#[test]
fn an_older_copy_gets_a_sequence_above_what_was_published() {
    let state = settle(None, &policy(), at(0));
    let published = Policy { published_sequence: 7, ..policy() };
    assert_eq!(decide(Some(&state), &published, at(0)), [Write::Sequence(8)]);
    let raised = settle(Some(state), &published, at(0));
    assert_eq!(decide(Some(&raised), &Policy { published_sequence: 8, ..policy() }, at(0)), []);
}

#[test]
fn a_lost_state_is_remembered_or_asked_about_but_never_invented() {
    let state = settle(None, &policy(), at(0));
    let foreign = CaState { trust_domain: "other".into(), ..state.clone() };
    let nothing = Known { secret: None, memory: None, published: false, accept_new_root: false };
    let judged = |known| source(known, "cluster.local");
    for (known, expected) in [
        (nothing, Source::Fresh),
        (Known { published: true, ..nothing }, Source::Lost),
        (Known { published: true, accept_new_root: true, ..nothing }, Source::Fresh),
        (Known { published: true, memory: Some(&state), ..nothing }, Source::Memory),
        (Known { published: true, memory: Some(&state), accept_new_root: true, ..nothing }, Source::Memory),
        (Known { published: true, secret: Some(&state), ..nothing }, Source::Secret),
        (Known { published: true, secret: Some(&foreign), ..nothing }, Source::Lost),
        (Known { published: true, secret: Some(&foreign), memory: Some(&state), ..nothing }, Source::Memory),
        (Known { secret: Some(&foreign), ..nothing }, Source::Fresh),
    ] {
        assert_eq!(judged(known), expected, "{known:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the life spans and however irregularly it is looked at: what is decided settles at once, and every leaf that still
    /// lives verifies against the current bundle.
    #[test]
    fn every_live_leaf_verifies_against_the_bundle(
        root in 2000_u64..4000, issuer in 50_u64..400, leaf in 1_u64..49, steps in prop::collection::vec(1_u64..60, 1..12),
    ) {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let policy = Policy {
            root_lifetime: hours(root), issuer_lifetime: hours(issuer), leaf_lifetime: hours(leaf), ..policy()
        };
        let id = SpiffeId::new("cluster.local", "shop", "web").unwrap();
        let mut now = at(0);
        let mut state = settle(None, &policy, now);
        let mut leaves = Vec::new();
        for step in steps {
            prop_assert_eq!(decide(Some(&state), &policy, now), []);
            let ca = MeshCa::new(&state).unwrap();
            leaves.push(ca.sign_leaf(&testing::csr(&id), &id, now).unwrap());
            leaves.retain(|l| l.not_after > now);
            for leaf in &leaves {
                prop_assert!(leaf.not_after <= SystemTime::UNIX_EPOCH + Duration::from_secs(
                    state.issuers.iter().map(|i| i.not_after).max().unwrap()));
                testing::verify(leaf, &ca.bundle, now).unwrap();
            }
            now += hours(step.min(issuer / 2));
            let before = state.bundle_sequence;
            state = settle(Some(state), &policy, now);
            prop_assert!(state.bundle_sequence >= before);
            prop_assert_eq!(state.roots.len(), 1);
        }
    }
}
