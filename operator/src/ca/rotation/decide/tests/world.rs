//! A Mesh's CA and those who depend on it, for the tests of decisions.

use bowline_crds::mesh::AuthorityPhase;

use super::super::{Decision, decide};
use crate::ca::{
    issuance::{issue, state::CaState},
    rotation::{
        evidence::{Evidence, Holding, Mount, Proxy, Replica, Report},
        ledger::Ledger,
        policy::Policy,
        write::Write,
    },
    testing,
    unix_time::{at, unix},
};

pub(super) const HOUR: u64 = 3600;

/// A Mesh's CA with two replicas and three proxies that do what they are told.
pub(super) struct World {
    pub(super) state: CaState,
    pub(super) policy: Policy,
    pub(super) evidence: Evidence,
    pub(super) now: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let policy = testing::policy("default");
        let now = unix(testing::start());
        let state = issue::apply(None, &[Write::First], &policy, None, at(now)).unwrap();
        let replica = |n: u32| Replica { name: format!("bowline-system/operator-{n}"), holds: None };
        let proxy = |n: u32| Proxy { name: format!("shop/web-{n}"), streams: vec![None], skew: Some(0) };
        let evidence = Evidence {
            watched_since: now,
            proxies: (0..3).map(proxy).collect(),
            replicas: (0..2).map(replica).collect(),
            mounts: vec![Mount { namespace: "shop".into(), sequence: 0 }],
        };
        let mut world = Self { state, policy, evidence, now };
        world.all_follow();
        world
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.state.ledger
    }

    /// Everybody takes over the state, and proxies renew.
    pub(super) fn all_follow(&mut self) {
        self.replicas_follow();
        self.publish();
        for n in 0..self.evidence.proxies.len() {
            self.proxy_follows(n);
        }
    }

    /// The bundle reaches the namespace.
    pub(super) fn publish(&mut self) {
        self.evidence.mounts[0].sequence = self.ledger().bundle_sequence;
    }

    pub(super) fn replicas_follow(&mut self) {
        let holding = Holding {
            revision: self.ledger().revision,
            issuer: self.ledger().serving_issuer(self.now).unwrap().id.clone(),
        };
        for replica in &mut self.evidence.replicas {
            replica.holds = Some(holding.clone());
        }
    }

    pub(super) fn proxy_follows(&mut self, n: usize) {
        let report = Report {
            bundle_sequence: self.ledger().bundle_sequence,
            issuer: self.ledger().active_issuer().unwrap().id.clone(),
        };
        self.evidence.proxies[n].streams = vec![Some(report)];
    }

    pub(super) fn decide(&self) -> Decision {
        decide(Some(self.ledger()), &self.policy, &self.evidence, self.now)
    }

    /// Decides and writes; what was written. A step is settled at once.
    pub(super) fn step(&mut self) -> Vec<Write> {
        let writes = self.write();
        if writes.iter().any(Write::is_step) && !self.ledger().is_steady() {
            assert_eq!(self.write(), [Write::Settle]);
        }
        writes
    }

    pub(super) fn write(&mut self) -> Vec<Write> {
        let writes = self.decide().writes;
        if !writes.is_empty() {
            self.state = issue::apply(Some(&self.state), &writes, &self.policy, None, at(self.now)).unwrap();
        }
        writes
    }

    /// Steps until nothing is left to do, with everybody following; the steps.
    pub(super) fn settle(&mut self) -> Vec<Write> {
        let mut all = Vec::new();
        for _ in 0..20 {
            self.all_follow();
            let writes = self.step();
            if writes.is_empty() {
                assert!(self.ledger().is_steady(), "stuck: {:?}", self.decide().missing);
                return all;
            }
            all.extend(writes);
        }
        panic!("it never ends: {all:?}")
    }

    pub(super) fn ask_root(&mut self, text: &str) {
        self.policy.requests.root.insert(text.into());
    }

    pub(super) fn phases(&self) -> (Vec<AuthorityPhase>, Vec<AuthorityPhase>) {
        let of = |list: &[crate::ca::rotation::ledger::Entry]| list.iter().map(|e| e.phase).collect();
        (of(&self.ledger().roots), of(&self.ledger().issuers))
    }

    /// Goes on until the new root has this phase.
    pub(super) fn until(&mut self, phase: AuthorityPhase) {
        for _ in 0..6 {
            if self.ledger().roots.last().unwrap().phase == phase && !self.ledger().is_steady() {
                return;
            }
            self.all_follow();
            self.step();
        }
        panic!("{phase:?} is never reached: {:?}", self.phases())
    }
}
