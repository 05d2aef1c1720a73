//! A model of everything that takes part in a rotation, driving the operator's own transition function: two replicas, each of which may
//! take itself for the leader, an API server, proxies, and what can go wrong between them.
//!
//! Times are those of the ledger, in seconds. Time passes only by [`Action::Sleep`], to the next moment at which anything changes by itself.

mod moves;
mod tests;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use bowline_crds::mesh::{AuthorityPhase, RotationKind};

use super::{
    decide::decide_with,
    evidence::{Evidence, Holding, Mount, Proxy, Replica, Report},
    guard::{Guards, margin},
    ledger::{Entry, Id, Ledger},
    policy::{AuthoritySource, Policy},
    write::{NewAuthorities, Write},
};

/// Life of leaves.
const LEAF: u64 = 1000;
/// When it begins.
const START: u64 = 1_000_000;
/// Life of authorities: beyond everything that a model looks at.
const LIFE: u64 = 1_000_000;

/// Sequence of a bundle; what it holds never changes.
type Sequence = u64;

/// A ledger with its hash, which is all that states are told apart by.
#[derive(Clone, Debug)]
struct Frozen(Arc<Ledger>, u64);

impl Frozen {
    fn new(ledger: Ledger) -> Self {
        let mut hasher = DefaultHasher::new();
        ledger.hash(&mut hasher);
        Self(Arc::new(ledger), hasher.finish())
    }
}

impl std::ops::Deref for Frozen {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        &self.0
    }
}

impl PartialEq for Frozen {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
    }
}

impl Eq for Frozen {}

impl Hash for Frozen {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.1.hash(state);
    }
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// What the API server holds.
    ledger: Frozen,
    /// The roots of every bundle that ever was, by sequence.
    bundles: Vec<Vec<Id>>,
    now: u64,
    replicas: Vec<OneReplica>,
    proxies: Vec<OneProxy>,
    /// The bundle that is mounted into pods.
    published: Sequence,
    /// What may still go wrong.
    budget: Budget,
    abort: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct OneReplica {
    up: bool,
    /// What it verifies with.
    bundle: Sequence,
    /// Whether the ledger that it lives with is the one that holds.
    current: bool,
    /// Who signed the leaf that it serves with, and when.
    issuer: Id,
    issued: u64,
    /// What it is about to write on top of the version that holds, and its clock when it read that.
    pending: Option<(Vec<Write>, u64)>,
}

/// What it has to report it reports at once: a report that is late only holds a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct OneProxy {
    there: bool,
    /// Issuing CA and end of the leaf in use.
    leaf: Option<(Id, u64)>,
    bundle: Sequence,
    /// The replica that it is connected to.
    stream: Option<usize>,
    /// An answer on its way.
    answer: Option<(Id, u64, Sequence)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    crashes: u8,
    disconnects: u8,
    restarts: u8,
    joins: u8,
    leaves: u8,
    sleeps: u8,
    aborts: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    /// A replica that takes itself for the leader reads the ledger, gathers evidence and decides.
    Look(usize),
    /// Its write arrives.
    Land(usize),
    /// It writes ConfigMaps as it last read the ledger.
    Publish(usize),
    /// A replica takes over the ledger.
    Follow(usize),
    Crash(usize),
    Start(usize),
    /// A proxy asks a replica for a leaf, and it is signed.
    Ask(usize, usize),
    Install(usize),
    Connect(usize, usize),
    /// It takes the bundle of the replica that it is connected to.
    Take(usize),
    Disconnect(usize),
    Restart(usize),
    Join(usize),
    Leave(usize),
    Sleep,
    Abort,
}

/// How far a replica's clock is ahead: as far as the margin allows, which covers one who signs and one who decides.
fn skew(replica: usize) -> u64 {
    if replica == 0 { 0 } else { margin(LEAF) / 2 }
}

/// What is explored.
#[derive(Clone, Debug)]
struct Setting {
    kind: RotationKind,
    proxies: usize,
    /// Of these, how many are there from the beginning.
    there: usize,
    budget: Budget,
    guards: Guards,
}

impl Setting {
    fn policy(&self, abort: bool) -> Policy {
        let mut policy = Policy {
            mesh: "model".into(),
            trust_domain: "model".into(),
            root_lifetime: std::time::Duration::from_secs(LIFE),
            issuer_lifetime: std::time::Duration::from_secs(LIFE / 2),
            leaf_lifetime: std::time::Duration::from_secs(LEAF),
            after_percent: 50,
            requests: crate::cluster::mesh::rotation::Requests::default(),
            distrust: Vec::new(),
            source: AuthoritySource::BuiltIn,
            published_sequence: 0,
        };
        match self.kind {
            RotationKind::Root => policy.requests.root.insert("please".into()),
            RotationKind::Issuer => policy.requests.issuer.insert("please".into()),
        };
        if abort {
            policy.requests.abort.insert("please".into());
        }
        policy
    }

    fn start(&self) -> World {
        let mut ledger = Ledger { leaf_seconds: LEAF, ..Ledger::default() };
        let made = make(RotationKind::Root, &ledger);
        ledger.apply(&Write::First, Some(made), START);
        let issuer = ledger.issuers[0].id.clone();
        let replica =
            OneReplica { up: true, bundle: 1, current: true, issuer: issuer.clone(), issued: START, pending: None };
        let proxy = |n: usize| OneProxy {
            there: true,
            leaf: Some((issuer.clone(), START + LEAF)),
            bundle: 1,
            stream: Some(n % 2),
            answer: None,
        };
        let proxies = (0..self.proxies).map(|n| if n < self.there { proxy(n) } else { OneProxy::default() });
        World {
            bundles: vec![vec![], vec![ledger.roots[0].id.clone()]],
            ledger: Frozen::new(ledger),
            now: START,
            replicas: vec![replica.clone(), replica],
            proxies: proxies.collect(),
            published: 1,
            budget: self.budget,
            abort: false,
        }
    }
}

/// New authorities with the next numbers.
fn make(kind: RotationKind, ledger: &Ledger) -> NewAuthorities {
    let number = ledger.revision;
    let entry = |id: String, root: Option<Id>, life: u64| Entry {
        id,
        root,
        phase: AuthorityPhase::Staged,
        since: 0,
        not_before: START,
        not_after: START + life,
        sequence: 0,
        longest_leaf: 0,
        external: false,
    };
    match kind {
        RotationKind::Root => {
            let root = format!("r{number}");
            NewAuthorities {
                issuer: entry(format!("i{number}.{root}"), Some(root.clone()), LIFE / 2),
                root: Some(entry(root, None, LIFE)),
            }
        }
        RotationKind::Issuer => {
            let root = ledger.roots[0].id.clone();
            NewAuthorities { root: None, issuer: entry(format!("i{number}.{root}"), Some(root), LIFE / 2) }
        }
    }
}

impl World {
    /// Whether a bundle covers leaves of an issuing CA; its name says its root.
    fn trusts(&self, bundle: Sequence, issuer: &str) -> bool {
        let (_, root) = issuer.split_once('.').unwrap();
        self.bundles[usize::try_from(bundle).unwrap()].iter().any(|r| r == root)
    }

    /// Leaves that are valid, with the bundle of who holds them; first the replicas'.
    fn parties(&self) -> Vec<(String, Id, Sequence)> {
        let replicas = self.replicas.iter().enumerate().filter(|(_, r)| r.up && self.now < r.issued + LEAF);
        let replicas = replicas.map(|(n, r)| (format!("replica {n}"), r.issuer.clone(), r.bundle));
        let proxies = self.proxies.iter().enumerate().filter_map(|(n, p)| {
            let (issuer, until) = p.leaf.as_ref().filter(|_| p.there)?;
            (self.now < *until).then(|| (format!("proxy {n}"), issuer.clone(), p.bundle))
        });
        replicas.chain(proxies).collect()
    }

    /// Who does not trust whom.
    fn broken(&self) -> Option<String> {
        let parties = self.parties();
        for (who, issuer, _) in &parties {
            if let Some((whom, _, _)) = parties.iter().find(|(_, _, bundle)| !self.trusts(*bundle, issuer)) {
                return Some(format!("{whom} does not trust {who}"));
            }
        }
        None
    }

    /// What the operator's observer would gather.
    fn evidence(&self) -> Evidence {
        let proxies = self.proxies.iter().enumerate().filter(|(_, p)| p.there).map(|(n, p)| {
            let report = p.leaf.as_ref().filter(|_| p.stream.is_some_and(|to| self.replicas[to].up));
            let report = report.map(|(issuer, _)| Some(Report { bundle_sequence: p.bundle, issuer: issuer.clone() }));
            let streams = report.into_iter().collect();
            Proxy { name: format!("proxy-{n}"), streams, skew: None }
        });
        let replicas = self.replicas.iter().enumerate().filter(|(_, r)| r.up).map(|(n, r)| Replica {
            name: format!("replica-{n}"),
            holds: Some(Holding {
                revision: if r.current { self.ledger.revision } else { 0 },
                issuer: r.issuer.clone(),
            }),
        });
        Evidence {
            watched_since: START,
            proxies: proxies.collect(),
            replicas: replicas.collect(),
            mounts: vec![Mount { namespace: "n".into(), sequence: self.published }],
        }
    }

    /// What a replica decides now.
    fn decide(&self, setting: &Setting, replica: usize) -> Vec<Write> {
        let policy = setting.policy(self.abort);
        let now = self.now + skew(replica);
        decide_with(Some(&self.ledger), &policy, &self.evidence(), now, setting.guards).writes
    }

    fn write(&mut self, writes: &[Write], now: u64) {
        let mut ledger = Ledger::clone(&self.ledger);
        for write in writes {
            let made = match write {
                Write::Stage { kind, .. } => Some(make(*kind, &ledger)),
                _ => None,
            };
            ledger.apply(write, made, now);
        }
        if ledger.bundle_sequence > self.ledger.bundle_sequence {
            self.bundles.push(ledger.trusted_roots().map(|r| r.id.clone()).collect());
        }
        // Shown to people, and looked at by nobody else: states that differ in nothing else are one.
        ledger.roots.iter_mut().chain(&mut ledger.issuers).for_each(|e| e.since = 0);
        ledger.rotation.iter_mut().for_each(|r| r.began = START);
        self.ledger = Frozen::new(ledger);
        self.replicas.iter_mut().for_each(|r| r.current = false);
    }
}
