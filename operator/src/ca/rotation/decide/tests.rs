mod world;

use std::time::Duration;

use bowline_crds::mesh::{AuthorityPhase, RotationCause, RotationKind};
use bowline_proxy::contract::spiffe::SpiffeId;
use proptest::prelude::*;

use self::world::{HOUR, World};
use super::*;
use crate::ca::{
    issuance::{mesh_ca::MeshCa, state::CaState},
    rotation::{
        evidence::{Holding, Report},
        origin::{Copies, Origin, origin},
        risk::at_risk,
        trigger::next_due,
    },
    testing,
    unix_time::at,
};

use AuthorityPhase::{Active, Distributed, Retiring};

#[test]
fn the_first_state_has_one_root_and_one_issuer() {
    let world = World::new();
    assert_eq!(world.phases(), (vec![Active], vec![Active]));
    assert_eq!(world.ledger().bundle_sequence, 1);
    assert_eq!(world.decide(), Decision::default());
}

#[test]
fn a_request_rotates_the_root_step_by_step_and_once() {
    let mut world = World::new();
    let old = world.ledger().roots[0].id.clone();
    world.ask_root("2026-11-21");
    let steps = world.settle();
    let stage = Write::Stage { kind: RotationKind::Root, cause: RotationCause::Requested };
    let handled = Write::Handled(world.policy.requests.clone());
    assert_eq!(steps[..4], [stage, handled, Write::Distribute, Write::Activate { renew_within: 1 }]);
    assert!(matches!(&steps[4], Write::DropIssuer { .. }));
    assert_eq!(steps[5..], [Write::DropRoot { id: old.clone(), revoke: false }, Write::Finish]);
    assert_eq!(world.phases(), (vec![Active], vec![Active]));
    assert_ne!(world.ledger().roots[0].id, old);
    assert_eq!(world.settle(), [], "the same text asked again");
    world.policy.requests.root.clear();
    assert!(world.settle().iter().all(|w| matches!(w, Write::Handled(_))), "a text that is gone asked");
}

#[test]
fn nothing_signs_before_everybody_trusts_it() {
    let mut world = World::new();
    world.ask_root("x");
    world.until(Distributed);
    world.all_follow();
    let behind = world.evidence.clone();
    // One stream of one proxy, one replica, one namespace: each holds it.
    let stale = Report { bundle_sequence: 1, issuer: world.ledger().issuers[0].id.clone() };
    world.evidence.proxies[1].streams.push(Some(stale));
    assert_eq!(world.decide().missing.proxies, ["shop/web-1"]);
    world.evidence = behind.clone();
    world.evidence.proxies[2].streams = vec![None];
    assert_eq!(world.decide().missing.proxies, ["shop/web-2"]);
    world.evidence = behind.clone();
    world.evidence.replicas[1].holds.as_mut().unwrap().revision -= 1;
    assert_eq!(world.decide().missing.replicas, ["bowline-system/operator-1"]);
    world.evidence = behind.clone();
    world.evidence.mounts[0].sequence -= 1;
    assert_eq!(world.decide().missing.namespaces, ["shop"]);
    world.evidence = behind;
    assert!(matches!(world.decide().writes[..], [Write::Activate { .. }]));
}

#[test]
fn who_is_silent_holds_a_step_until_what_they_hold_has_expired() {
    let mut world = World::new();
    world.ask_root("x");
    world.until(Distributed);
    world.all_follow();
    world.evidence.proxies[0].streams.clear();
    let since = world.ledger().settled.unwrap();
    let dead = since + 24 * HOUR + 300;
    world.now = dead - 1;
    let decision = world.decide();
    assert_eq!(decision.missing.proxies, ["shop/web-0"]);
    assert_eq!(decision.missing.until, Some(dead));
    world.now = dead;
    assert!(matches!(world.decide().writes[..], [Write::Activate { .. }]));
    // A namespace that cannot be written likewise.
    world.evidence.mounts[0].sequence -= 1;
    world.now = dead - 1;
    let decision = world.decide();
    assert_eq!((decision.missing.namespaces, decision.missing.until), (vec!["shop".to_owned()], Some(dead)));
    world.now = dead;
    assert!(world.decide().missing.is_empty());
    // A silent replica likewise.
    world.evidence.replicas[0].holds = None;
    world.now = dead - 1;
    assert_eq!(world.decide().missing.replicas, ["bowline-system/operator-0"]);
    world.now = dead;
    assert!(world.decide().missing.is_empty());
}

#[test]
fn an_old_issuer_stays_while_a_leaf_of_it_may_live() {
    let mut world = World::new();
    world.ask_root("x");
    world.until(Active);
    world.replicas_follow();
    world.publish();
    world.proxy_follows(0);
    world.proxy_follows(1);
    assert_eq!(world.decide().missing.proxies, ["shop/web-2"]);
    assert_eq!(
        world.ledger().serving_issuer(world.now).unwrap().phase,
        Retiring,
        "who missed the bundle cannot connect"
    );
    world.proxy_follows(2);
    assert!(matches!(world.step()[..], [Write::DropIssuer { .. }]));
    // The root waits until no replica serves with a leaf below it.
    let stale = world.evidence.replicas[1].holds.clone().unwrap();
    world.replicas_follow();
    let revision = world.ledger().revision;
    world.evidence.replicas[1].holds = Some(Holding { revision, ..stale });
    assert_eq!(world.decide().missing.replicas, ["bowline-system/operator-1"]);
    world.replicas_follow();
    assert!(matches!(world.step()[..], [Write::DropRoot { revoke: false, .. }]));
}

#[test]
fn a_rotation_is_aborted_or_rolled_back_from_every_phase_before_retirement() {
    for phase in [AuthorityPhase::Staged, Distributed, Active] {
        let mut world = World::new();
        let old = world.ledger().roots[0].id.clone();
        world.ask_root("x");
        world.until(phase);
        world.policy.requests.abort.insert("no".into());
        world.settle();
        assert_eq!(world.ledger().roots[0].id, old, "{phase:?}");
        assert_eq!(world.phases(), (vec![Active], vec![Active]));
        assert_eq!(world.settle(), [], "it goes on by itself");
    }
    let mut world = World::new();
    let old = world.ledger().roots[0].id.clone();
    world.ask_root("x");
    while world.ledger().issuers.len() > 1 || world.ledger().is_steady() {
        world.all_follow();
        world.step();
    }
    world.policy.requests.abort.insert("late".into());
    world.settle();
    assert_ne!(world.ledger().roots[0].id, old, "nothing is left that could sign again");
}

#[test]
fn a_compromised_root_is_replaced_without_waiting_for_the_unreachable() {
    let mut world = World::new();
    let old = world.ledger().roots[0].id.clone();
    world.policy.distrust.push(old.clone());
    world.step();
    assert_eq!(world.ledger().rotation.as_ref().unwrap().cause, RotationCause::Compromised);
    world.all_follow();
    world.step();
    world.all_follow();
    // One is not heard of, one is connected and does not follow.
    world.evidence.proxies[0].streams.clear();
    let stale = Report { bundle_sequence: 1, issuer: world.ledger().issuers[0].id.clone() };
    world.evidence.proxies[1].streams = vec![Some(stale)];
    // And the bundle cannot be written.
    world.evidence.mounts[0].sequence = 1;
    let began = world.now;
    world.now = began + 29;
    assert_eq!(world.decide().missing.proxies, ["shop/web-0", "shop/web-1"]);
    assert_eq!(world.decide().missing.namespaces, ["shop"]);
    world.now = began + 30;
    assert_eq!(world.decide().missing.proxies, ["shop/web-1"]);
    assert!(world.decide().missing.namespaces.is_empty());
    world.now = began + 150;
    assert!(matches!(world.step()[..], [Write::Activate { .. }]));
    let mut steps = Vec::new();
    while world.now < began + 400 {
        world.replicas_follow();
        world.proxy_follows(2);
        steps.extend(world.step());
        world.now += 1;
    }
    assert!(steps.contains(&Write::DropRoot { id: old.clone(), revoke: true }), "{steps:?}");
    assert_eq!(world.ledger().revoked[0].id, old);
    world.now += 49 * HOUR;
    world.settle();
    assert!(world.ledger().revoked.is_empty(), "it is remembered for ever");
}

#[test]
fn a_leader_that_has_just_begun_to_listen_takes_nobody_for_unreachable() {
    let mut world = World::new();
    world.policy.distrust.push(world.ledger().roots[0].id.clone());
    world.until(Distributed);
    world.all_follow();
    for proxy in &mut world.evidence.proxies {
        proxy.streams.clear();
    }
    world.now += 1000;
    world.evidence.watched_since = world.now - 5;
    assert_eq!(world.decide().missing.proxies.len(), 3);
}

#[test]
fn a_compromised_new_root_is_given_up() {
    for phase in [Distributed, Active] {
        let mut world = World::new();
        let old = world.ledger().roots[0].id.clone();
        world.ask_root("x");
        world.until(phase);
        world.policy.distrust.push(world.ledger().roots[1].id.clone());
        world.settle();
        assert_eq!(world.ledger().roots[0].id, old);
    }
}

#[test]
fn authorities_are_replaced_at_their_share_of_life() {
    let mut world = World::new();
    let root = world.ledger().roots[0].id.clone();
    world.now += 49 * HOUR;
    assert_eq!(world.settle(), []);
    let due = next_due(world.ledger(), 50).unwrap();
    assert!(due > world.now && due <= world.now + HOUR);
    world.now += 2 * HOUR;
    let steps = world.settle();
    assert_eq!(steps[0], Write::Stage { kind: RotationKind::Issuer, cause: RotationCause::Age });
    assert_eq!(world.ledger().roots[0].id, root);
    world.now += 460 * HOUR;
    let steps = world.settle();
    assert_eq!(steps[0], Write::Stage { kind: RotationKind::Root, cause: RotationCause::Age });
    world.policy.after_percent = 10;
    world.now += 11 * HOUR;
    assert_eq!(world.settle()[0], Write::Stage { kind: RotationKind::Issuer, cause: RotationCause::Age });
}

#[test]
fn an_issuer_that_ends_with_its_root_is_not_replaced_in_vain() {
    let mut world = World::new();
    world.policy.root_lifetime = Duration::from_secs(120 * HOUR);
    world.ask_root("short");
    world.settle();
    world.policy.after_percent = 80;
    world.now += 81 * HOUR;
    world.settle();
    assert_eq!(world.ledger().issuers[0].not_after, world.ledger().roots[0].not_after);
    assert_eq!(world.settle(), []);
}

#[test]
fn what_has_expired_is_replaced_without_anybody() {
    let mut world = World::new();
    let old = world.ledger().roots[0].id.clone();
    world.now += 2000 * HOUR;
    for proxy in &mut world.evidence.proxies {
        proxy.streams.clear();
    }
    for _ in 0..10 {
        world.replicas_follow();
        world.publish();
        world.step();
    }
    assert_ne!(world.ledger().roots[0].id, old);
    assert_eq!(world.phases(), (vec![Active], vec![Active]));
    let ca = MeshCa::new(&world.state).unwrap();
    let web = SpiffeId::new("cluster.local", "shop", "web").unwrap();
    let leaf = ca.sign_leaf(&testing::csr(&web), &web, at(world.now)).unwrap();
    testing::verify(&leaf, &ca.bundle, at(world.now)).unwrap();
}

#[test]
fn slow_clocks_hold_a_new_root_unless_it_is_urgent() {
    let mut world = World::new();
    world.ask_root("x");
    world.step();
    world.all_follow();
    world.evidence.proxies[0].skew = Some(-301);
    assert_eq!(world.decide().missing.skewed, ["shop/web-0"]);
    world.policy.distrust.push(world.ledger().roots[0].id.clone());
    world.state.ledger.rotation.as_mut().unwrap().cause = RotationCause::Compromised;
    assert_eq!(world.decide().writes, [Write::Distribute]);
}

#[test]
fn risk_is_told_before_it_is_too_late() {
    let mut world = World::new();
    assert_eq!(at_risk(world.ledger(), world.now), None);
    world.now = world.ledger().issuers[0].not_after - 48 * HOUR;
    assert_eq!(at_risk(world.ledger(), world.now).unwrap().what, "issuing CA");
    let mut world = World::new();
    world.ask_root("x");
    world.until(Distributed);
    world.now = world.ledger().issuers[0].not_after - 51 * HOUR;
    // The longer a rotation lasts, the longer it may last.
    assert!(at_risk(world.ledger(), world.now).is_some());
}

#[test]
fn the_sequence_never_falls_below_what_was_published() {
    let mut world = World::new();
    world.policy.published_sequence = 7;
    assert_eq!(world.step(), [Write::Sequence(8)]);
    assert_eq!(world.step(), []);
}

#[test]
fn a_new_life_of_leaves_reaches_the_state_and_longer_ones_are_waited_for() {
    let mut world = World::new();
    world.policy.leaf_lifetime = Duration::from_secs(HOUR);
    assert_eq!(world.step(), [Write::LeafSeconds(HOUR)]);
    assert_eq!(world.ledger().issuers[0].longest_leaf, 24 * HOUR);
    world.settle();
    world.ask_root("x");
    world.until(Active);
    world.all_follow();
    world.evidence.proxies[0].streams.clear();
    assert_eq!(world.decide().missing.until, Some(world.now + 24 * HOUR + 300));
}

#[test]
fn lost_state_is_restored_or_given_up_only_on_demand() {
    let state = testing::state("default");
    let known = Copies { secret: None, memory: None, published: false, accept_new_root: false };
    assert_eq!(origin(known, "cluster.local"), Origin::Fresh);
    assert_eq!(origin(Copies { secret: Some(&state.trust_domain), ..known }, "cluster.local"), Origin::Secret);
    assert_eq!(
        origin(Copies { memory: Some(&state.trust_domain), published: true, ..known }, "cluster.local"),
        Origin::Memory
    );
    assert_eq!(origin(Copies { published: true, ..known }, "cluster.local"), Origin::Lost);
    assert_eq!(origin(Copies { published: true, accept_new_root: true, ..known }, "cluster.local"), Origin::Fresh);
    assert_eq!(origin(Copies { secret: Some(&state.trust_domain), ..known }, "other.domain"), Origin::Fresh);
}

proptest! {
    /// Whatever happens in whatever order, the ledger keeps one that signs, below a root that is trusted, and bundles only grow.
    #[test]
    fn the_ledger_stays_whole(moves in prop::collection::vec((0_u8..9, 0_usize..3), 1..60)) {
        let mut world = World::new();
        for (what, who) in moves {
            let before = world.ledger().bundle_sequence;
            match what {
                0 => world.ask_root(&format!("r{}", world.ledger().revision)),
                1 => { world.policy.requests.issuer.insert(format!("i{}", world.ledger().revision)); }
                2 => { world.policy.requests.abort.insert(format!("a{}", world.ledger().revision)); }
                3 => world.evidence.proxies[who].streams.clear(),
                4 => world.proxy_follows(who),
                5 => world.replicas_follow(),
                6 => world.policy.distrust = vec![world.ledger().roots[who.min(world.ledger().roots.len() - 1)].id.clone()],
                7 => world.now += 7 * HOUR,
                _ => world.all_follow(),
            }
            world.step();
            let ledger = world.ledger();
            let active = ledger.issuers.iter().filter(|i| i.phase == Active).count();
            prop_assert_eq!(active, 1);
            let root = ledger.active_issuer().unwrap().root.clone().unwrap();
            prop_assert!(ledger.trusted_roots().any(|r| r.id == root));
            prop_assert!(ledger.bundle_sequence >= before);
            prop_assert!(ledger.roots.len() <= 2 && ledger.issuers.len() <= 2);
            prop_assert_eq!(CaState::parse("default", &world.state.to_json()).unwrap(), world.state.clone());
        }
    }
}
