//! What the model is asked. `cargo test -p bowline-operator model -- --nocapture` prints the states explored; `BOWLINE_MODEL=large` explores
//! more.

use std::time::{Duration, Instant};

use bowline_crds::mesh::RotationKind;
use stateright::{Checker, Model, StateRecorder};

use super::{Action, Budget, Guards, Setting, World};

const QUIET: Budget = Budget { crashes: 0, disconnects: 0, restarts: 0, joins: 0, leaves: 0, sleeps: 0, aborts: 0 };

fn setting(kind: RotationKind, proxies: usize, there: usize, budget: Budget) -> Setting {
    Setting { kind, proxies, there, budget, guards: Guards::ALL }
}

fn is_large() -> bool {
    std::env::var("BOWLINE_MODEL").is_ok_and(|v| v == "large")
}

/// Explores everything that a setting can come to; the number of states.
fn explore(name: &str, setting: Setting) -> usize {
    let began = Instant::now();
    let checker = setting.clone().checker().threads(2).timeout(Duration::from_secs(3000)).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("model: {name}: {states} states, depth {}, {:.1} s", checker.max_depth(), began.elapsed().as_secs_f64());
    if let Some(path) = checker.discovery("everybody trusts everybody") {
        let (last, actions) = (path.last_state().clone(), path.into_actions());
        panic!("{name}: {} after {actions:#?}\n{last:#?}", last.broken().unwrap());
    }
    assert!(checker.discovery("a rotation ends").is_some(), "{name}: no rotation ends");
    assert!(checker.is_done(), "{name}: it was not explored to the end");
    states
}

/// Everything that can go wrong once, alone; what can go wrong together; and more of both in the large form.
fn settings(kind: RotationKind) -> Vec<(&'static str, Setting)> {
    let root = |proxies, there, budget| setting(kind, proxies, there, budget);
    let mut settings = vec![
        ("one proxy, nothing goes wrong", root(1, 1, QUIET)),
        ("two proxies, nothing goes wrong", root(2, 2, QUIET)),
        ("a crash", root(1, 1, Budget { crashes: 1, ..QUIET })),
        ("a restart", root(1, 1, Budget { restarts: 1, ..QUIET })),
        ("a join", root(2, 1, Budget { joins: 1, ..QUIET })),
        ("a leave", root(2, 2, Budget { leaves: 1, ..QUIET })),
        ("an abort", root(1, 1, Budget { aborts: 1, ..QUIET })),
        ("an abort and a restart", root(1, 1, Budget { aborts: 1, restarts: 1, ..QUIET })),
        ("a partition", root(2, 2, Budget { disconnects: 1, ..QUIET })),
        ("time passes", root(1, 1, Budget { sleeps: 2, ..QUIET })),
        ("a partition and time", root(1, 1, Budget { disconnects: 1, sleeps: 1, ..QUIET })),
    ];
    if is_large() {
        settings.extend([
            ("more time", root(1, 1, Budget { sleeps: 3, ..QUIET })),
            ("a partition and more time", root(1, 1, Budget { disconnects: 1, sleeps: 2, ..QUIET })),
            ("an abort and time", root(1, 1, Budget { aborts: 1, sleeps: 2, ..QUIET })),
            ("an abort and a partition of two", root(2, 2, Budget { aborts: 1, disconnects: 1, ..QUIET })),
            ("a join, a leave and a crash", root(2, 1, Budget { joins: 1, leaves: 1, crashes: 1, ..QUIET })),
            ("three proxies", root(3, 3, QUIET)),
        ]);
    }
    settings
}

fn explore_all(kind: RotationKind) {
    let states: usize = settings(kind).into_iter().map(|(name, setting)| explore(name, setting)).sum();
    println!("model: {kind:?} rotations: {states} states explored");
}

#[test]
fn a_root_rotation_never_breaks_trust() {
    explore_all(RotationKind::Root);
}

#[test]
fn an_issuer_rotation_never_breaks_trust() {
    explore_all(RotationKind::Issuer);
}

/// A namespace without the bundle is waited for so that whoever starts there can join at once. Nobody's trust depends on it, or it must
/// not be given up.
#[test]
fn trust_does_not_depend_on_mounts() {
    // Only who starts finds what is mounted.
    let starting = |s: &Setting| s.budget.restarts + s.budget.joins > 0;
    for (name, setting) in settings(RotationKind::Root).into_iter().filter(|(_, s)| starting(s)) {
        explore(name, Setting { guards: Guards { mounts: false, ..Guards::ALL }, ..setting });
    }
}

/// A guard that is missing is found: each of these would have broken somebody's mesh.
#[test]
fn every_seeded_fault_is_found() {
    let all = Guards::ALL;
    let restart = Budget { restarts: 1, ..QUIET };
    let time = Budget { disconnects: 1, sleeps: 2, ..QUIET };
    for (name, guards, proxies, budget) in [
        ("a root signs before everybody trusts it", Guards { bundle: false, ..all }, 2, QUIET),
        ("an issuing CA goes before its leaves do", Guards { leaf: false, ..all }, 2, QUIET),
        ("replicas are not waited for", Guards { replicas: false, ..all }, 2, restart),
        ("a timer decides at once", Guards { timer: Some(0), ..all }, 2, QUIET),
        ("a timer decides before leaves expire", Guards { timer: Some(super::LEAF / 4), ..all }, 1, time),
    ] {
        let faulty = Setting { guards, ..setting(RotationKind::Root, proxies, proxies, budget) };
        let checker = faulty.checker().threads(2).spawn_bfs().join();
        let found = checker.discovery("everybody trusts everybody");
        println!("model: {name}: found after {} states", checker.unique_state_count());
        assert!(found.is_some(), "{name}: nobody noticed");
    }
}

/// From wherever a rotation has come to, whatever went wrong on the way: once nothing more does, it ends.
#[test]
fn every_rotation_ends() {
    for (name, setting) in settings(RotationKind::Root).into_iter().filter(|(_, s)| s.budget.sleeps == 0) {
        let (recorder, states) = StateRecorder::new_with_accessor();
        let _ = setting.clone().checker().visitor(recorder).spawn_bfs().join();
        let states = states();
        // Neighbours differ little: a part of the many is enough, all of the few.
        let every = states.len() / 4000 + 1;
        for world in states.iter().step_by(every) {
            let (ended, rounds) = finish(world.clone(), &setting);
            assert!(ended.is_some(), "{name}: no end after {rounds} rounds from {world:#?}");
        }
        println!("model: {name}: ends from {} of {} states", states.len().div_ceil(every), states.len());
    }
}

/// Everybody does what is theirs to do, in turn, and time passes when nobody has anything to do.
fn finish(mut world: World, setting: &Setting) -> (Option<World>, usize) {
    world.budget = Budget { sleeps: 100, ..QUIET };
    for round in 0..150 {
        let before = world.clone();
        let mut turns = Vec::new();
        for replica in 0..world.replicas.len() {
            turns.extend([Action::Start(replica), Action::Follow(replica), Action::Publish(replica)]);
        }
        for proxy in 0..world.proxies.len() {
            turns.extend([Action::Install(proxy), Action::Take(proxy)]);
            turns.extend([Action::Ask(proxy, 0), Action::Connect(proxy, 0), Action::Ask(proxy, 1)]);
        }
        turns.extend([Action::Look(0), Action::Land(0), Action::Look(1), Action::Land(1)]);
        for turn in turns {
            let mut next = world.clone();
            let is_up = |n: usize| world.replicas[n].up;
            let possible = match turn {
                Action::Start(n) => !is_up(n),
                Action::Look(n) => is_up(n),
                Action::Ask(n, _) | Action::Connect(n, _) | Action::Install(n) | Action::Take(n) => {
                    world.proxies[n].there
                }
                _ => true,
            };
            if possible && next.step(setting, &turn).is_some() {
                world = next;
                assert_eq!(world.broken(), None);
            }
        }
        // A proxy that restarted gets its mount from the kubelet in time.
        for proxy in world.proxies.iter_mut().filter(|p| p.there && p.leaf.is_none()) {
            proxy.bundle = proxy.bundle.max(world.published);
        }
        if world.ledger.is_steady() && world.ledger.rotation.is_none() && world.ledger.revision > 3 {
            return (Some(world), round);
        }
        if world == before && world.step(setting, &Action::Sleep).is_none() {
            return (None, round);
        }
    }
    (None, 150)
}
