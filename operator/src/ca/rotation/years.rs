//! Fifteen years in a moment: the operator's own decisions, proxies that renew as the real ones do, and a control plane that is away now
//! and then. No step here waits for a real clock.

use std::time::Duration;

use bowline_crds::mesh::{AuthorityPhase, RotationKind};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    decide::decide,
    evidence::{Evidence, Holding, Mount, Proxy, Replica, Report},
    ledger::{Entry, Ledger},
    policy::Policy,
    write::{NewAuthorities, Write},
};
use crate::ca::testing;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;
/// Time between two looks at everything.
const STEP: u64 = 600;
/// Longest outage of the control plane that costs nothing, as `docs/certificates.md` says: 45 % of a leaf's life.
const BOUND: u64 = 24 * HOUR * 45 / 100;

struct Workload {
    issuer: String,
    root: String,
    not_after: u64,
    renew_at: u64,
    /// What it trusts.
    sequence: u64,
    roots: Vec<String>,
}

struct Years {
    random: StdRng,
    policy: Policy,
    ledger: Ledger,
    workloads: Vec<Workload>,
    now: u64,
    /// Numbers certificates.
    made: u64,
    /// Roots that signed, one after the other.
    signed: Vec<String>,
}

impl Years {
    fn new(seed: u64, root_days: u64, issuer_days: u64) -> Self {
        let mut policy = testing::policy("years");
        policy.root_lifetime = Duration::from_secs(root_days * DAY);
        policy.issuer_lifetime = Duration::from_secs(issuer_days * DAY);
        let ledger = Ledger { leaf_seconds: 24 * HOUR, ..Ledger::default() };
        let random = StdRng::seed_from_u64(seed);
        let mut years = Self { random, policy, ledger, workloads: vec![], now: 1_000_000, made: 0, signed: vec![] };
        years.write(&[Write::First]);
        for _ in 0..5 {
            let workload = years.leaf();
            years.workloads.push(workload);
        }
        years
    }

    fn certificate(&mut self, root: Option<&Entry>, life: u64) -> Entry {
        self.made += 1;
        Entry {
            id: format!("{}{}", if root.is_some() { "i" } else { "r" }, self.made),
            root: root.map(|r| r.id.clone()),
            phase: AuthorityPhase::Staged,
            since: 0,
            not_before: self.now,
            not_after: root.map_or(u64::MAX, |r| r.not_after).min(self.now + life),
            sequence: 0,
            longest_leaf: 0,
            external: false,
        }
    }

    fn write(&mut self, writes: &[Write]) {
        for write in writes {
            let kind = match write {
                Write::First => Some(RotationKind::Root),
                Write::Stage { kind, .. } => Some(*kind),
                _ => None,
            };
            let made = kind.map(|kind| {
                let root_life = self.policy.root_lifetime.as_secs();
                let issuer_life = self.policy.issuer_lifetime.as_secs();
                let new = (kind == RotationKind::Root).then(|| self.certificate(None, root_life));
                let root = new.clone().unwrap_or_else(|| self.ledger.active_root().unwrap().clone());
                NewAuthorities { issuer: self.certificate(Some(&root), issuer_life), root: new }
            });
            self.ledger.apply(write, made, self.now);
        }
        let root = self.ledger.active_root().unwrap().id.clone();
        if self.signed.last() != Some(&root) {
            self.signed.push(root);
        }
    }

    /// A new leaf with the bundle of the day, to be renewed half-way, give or take a tenth of that.
    fn leaf(&mut self) -> Workload {
        let issuer = self.ledger.active_issuer().unwrap().clone();
        let not_after = issuer.not_after.min(self.now + self.ledger.leaf_seconds);
        let life = not_after.saturating_sub(self.now);
        let share = 0.5 * (1.0 + 0.1 * self.random.random_range(-1.0..1.0));
        Workload {
            root: issuer.root.clone().unwrap(),
            issuer: issuer.id,
            not_after,
            renew_at: self.now + (life as f64 * share) as u64,
            sequence: self.ledger.bundle_sequence,
            roots: self.ledger.trusted_roots().map(|r| r.id.clone()).collect(),
        }
    }

    /// Everybody does their part once, with the control plane there or not.
    fn step(&mut self, up: bool) {
        self.now += STEP;
        if !up {
            return;
        }
        let holding = Holding {
            revision: self.ledger.revision,
            issuer: self.ledger.serving_issuer(self.now).unwrap().id.clone(),
        };
        // Nobody is asked while there is no rotation.
        let steady = self.ledger.is_steady();
        let proxy = |(n, w): (usize, &Workload)| Proxy {
            name: format!("w{n}"),
            // Whose leaf has expired cannot connect.
            streams: (self.now < w.not_after)
                .then(|| Some(Report { bundle_sequence: w.sequence, issuer: w.issuer.clone() }))
                .into_iter()
                .collect(),
            skew: Some(0),
        };
        let evidence = Evidence {
            watched_since: self.now,
            proxies: self.workloads.iter().enumerate().filter(|_| !steady).map(proxy).collect(),
            replicas: vec![Replica { name: "r".into(), holds: Some(holding) }],
            mounts: vec![Mount { namespace: "n".into(), sequence: self.ledger.bundle_sequence }],
        };
        let writes = decide(Some(&self.ledger), &self.policy, &evidence, self.now).writes;
        self.write(&writes);
        for n in 0..self.workloads.len() {
            let workload = &mut self.workloads[n];
            // The kubelet mounts the bundle for those who cannot connect.
            if workload.sequence != self.ledger.bundle_sequence {
                workload.sequence = self.ledger.bundle_sequence;
                workload.roots = self.ledger.trusted_roots().map(|r| r.id.clone()).collect();
            }
            let covered = workload.roots.contains(&workload.root);
            let wanted = self.ledger.active_issuer().is_some_and(|i| i.id == workload.issuer);
            if self.now >= workload.renew_at || !wanted || !covered {
                self.workloads[n] = self.leaf();
            }
        }
    }

    /// Who has no valid leaf, or is not trusted by somebody who has.
    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (n, one) in self.workloads.iter().enumerate() {
            if self.now >= one.not_after {
                broken.push(format!("w{n} has expired"));
            } else if let Some(m) = self.workloads.iter().position(|other| !other.roots.contains(&one.root)) {
                broken.push(format!("w{m} does not trust w{n}"));
            }
        }
        broken
    }

    /// Goes on for `time`, with outages no longer than `longest`; what was broken and when.
    fn live(&mut self, time: u64, longest: u64) -> Vec<(u64, String)> {
        let (began, mut away_until, mut broken) = (self.now, 0, Vec::new());
        while self.now < began + time {
            if self.now >= away_until && self.random.random_range(0..4000) == 0 {
                away_until = self.now + self.random.random_range(STEP..longest);
            }
            let up = self.now >= away_until;
            self.step(up);
            broken.extend(self.broken().into_iter().map(|what| (self.now - began, what)));
        }
        broken
    }
}

#[test]
fn fifteen_years_with_outages_below_the_bound_lose_no_trust() {
    for (seed, root_days, issuer_days, roots) in [(1, 3650, 365, 3), (2, 365, 30, 25), (3, 30, 4, 300)] {
        let mut years = Years::new(seed, root_days, issuer_days);
        let broken = years.live(15 * YEAR, BOUND);
        assert!(broken.is_empty(), "seed {seed}: {:?} of {}", broken.first(), broken.len());
        assert!(years.signed.len() >= roots, "seed {seed}: only {} roots signed", years.signed.len());
        assert!(years.ledger.roots.len() <= 2 && years.ledger.issuers.len() <= 2);
    }
}

#[test]
fn an_outage_above_the_bound_is_noticed_by_this_very_test() {
    let mut years = Years::new(4, 365, 30);
    assert!(!years.live(2 * YEAR, 3 * DAY).is_empty(), "nothing here would notice");
}

#[test]
fn whatever_expired_meanwhile_comes_back_by_itself() {
    for (away, what) in [(3 * DAY, "leaves"), (400 * DAY, "issuing CA"), (12 * YEAR, "root")] {
        let mut years = Years::new(5, 3650, 365);
        years.live(30 * DAY, BOUND);
        for _ in 0..away / STEP {
            years.step(false);
        }
        assert!(!years.broken().is_empty(), "{what}: nothing expired");
        for _ in 0..20 {
            years.step(true);
        }
        assert_eq!(years.broken(), [""; 0], "{what}");
        // It goes on as before.
        assert!(years.live(YEAR, BOUND).is_empty(), "{what}");
    }
}
