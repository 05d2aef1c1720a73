//! What the model is asked. `cargo test -p bowline-operator model -- --nocapture` prints the states explored; `BOWLINE_MODEL=large` explores
//! more.

use std::time::{Duration, Instant};

use bowline_crds::mesh::RotationKind;
use stateright::{Checker, Model};

use super::{Budget, Guards, Setting};

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

#[test]
fn a_root_rotation_never_breaks_trust() {
    let root = |proxies, there, budget| setting(RotationKind::Root, proxies, there, budget);
    let mut states = 0;
    for (name, setting) in [
        ("one proxy, nothing goes wrong", root(1, 1, QUIET)),
        ("two proxies, nothing goes wrong", root(2, 2, QUIET)),
        ("a crash", root(1, 1, Budget { crashes: 1, ..QUIET })),
        ("time passes", root(1, 1, Budget { sleeps: 3, ..QUIET })),
        ("a restart", root(1, 1, Budget { restarts: 1, ..QUIET })),
        ("a join", root(2, 1, Budget { joins: 1, ..QUIET })),
        ("an abort", root(1, 1, Budget { aborts: 1, ..QUIET })),
        ("a partition and time", root(1, 1, Budget { disconnects: 1, sleeps: 2, ..QUIET })),
    ] {
        states += explore(name, setting);
    }
    println!("model: {states} states in all");
}
