//! The guard before a step of a rotation: who of those in the evidence is not where the step needs them, and until when it waits for them.

use super::{
    evidence::{Evidence, Holding, Report},
    ledger::{Entry, Ledger},
};

/// How far a workload's clock may be off, in seconds, before new roots wait for it: certificates are backdated by as much.
pub const SKEW_BOUND: u64 = 300;
/// When a root is compromised: how long, in seconds, a step waits for those who were not heard of.
pub const EMERGENCY_SILENT: u64 = 30;
/// When a root is compromised: how long, in seconds, a step waits for those who are connected and lag behind.
pub const EMERGENCY_LAGGING: u64 = 150;

/// Who is waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Missing {
    /// Proxies.
    pub proxies: Vec<String>,
    /// Replicas of the operator.
    pub replicas: Vec<String>,
    /// Workloads whose clock is off.
    pub skewed: Vec<String>,
    /// Namespaces that lack the bundle.
    pub namespaces: Vec<String>,
    /// Whether the API server has pods that memory has not seen yet.
    pub unseen: bool,
    /// When those who were never heard of are waited for no more, in seconds since the Unix epoch.
    pub until: Option<u64>,
}

impl Missing {
    /// Whether nobody is waited for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.proxies.is_empty()
            && self.replicas.is_empty()
            && self.skewed.is_empty()
            && self.namespaces.is_empty()
            && !self.unseen
    }
}

/// Which guards hold. Every one does: tests of the model drop some to see it find the consequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guards {
    /// A root signs only when every proxy trusts it.
    pub bundle: bool,
    /// An issuing CA goes only when no proxy has a leaf of it.
    pub leaf: bool,
    /// Every step waits for every replica of the operator.
    pub replicas: bool,
    /// A root signs only when whoever starts finds it mounted.
    pub mounts: bool,
    /// A step goes on after this many seconds, whoever is missing.
    pub timer: Option<u64>,
}

impl Guards {
    /// As they should be.
    pub const ALL: Self = Self { bundle: true, leaf: true, replicas: true, mounts: true, timer: None };
}

/// The time allowed for clocks to differ where a leaf's expiry decides, in seconds: twice what the clocks of two replicas may differ by, because
/// one may have signed a leaf that another lets expire.
#[must_use]
pub fn margin(longest_leaf: u64) -> u64 {
    (longest_leaf / 10).min(SKEW_BOUND)
}

/// When a step began, when it needs nobody's word any more, and how it waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) since: u64,
    /// Every certificate that was there when the step began has expired by then.
    pub(super) dead_at: u64,
    pub(super) emergency: bool,
    pub(super) now: u64,
    pub(super) guards: Guards,
}

impl Step {
    /// The last step of a ledger, since when no leaf of `issuers` was signed any more, or none without the bundle of that step.
    pub(super) fn new<'a>(
        ledger: &Ledger,
        issuers: impl Iterator<Item = &'a Entry>,
        emergency: bool,
        now: u64,
        guards: Guards,
    ) -> Self {
        let since = ledger.settled.unwrap_or(now);
        let last = issuers.map(|i| i.not_after.min(since + i.longest_leaf) + margin(i.longest_leaf)).max();
        Self { since, dead_at: last.unwrap_or(since), emergency, now, guards }
    }

    /// Whether whoever says nothing need not be waited for.
    fn silent_is_released(&self, watched_since: u64) -> bool {
        self.now >= self.dead_at
            || self.emergency && self.now >= self.since.max(watched_since) + EMERGENCY_SILENT
            || self.guards.timer.is_some_and(|t| self.now >= self.since + t)
    }

    fn lagging_is_released(&self) -> bool {
        self.now >= self.dead_at
            || self.emergency && self.now >= self.since + EMERGENCY_LAGGING
            || self.guards.timer.is_some_and(|t| self.now >= self.since + t)
    }

    /// Proxies of which not every stream said `there`.
    pub(super) fn proxies(&self, evidence: &Evidence, there: impl Fn(&Report) -> bool, missing: &mut Missing) {
        for proxy in &evidence.proxies {
            let released = if proxy.streams.is_empty() {
                self.silent_is_released(evidence.watched_since)
            } else {
                self.lagging_is_released() || proxy.streams.iter().all(|s| s.as_ref().is_some_and(&there))
            };
            if !released {
                missing.proxies.push(proxy.name.clone());
                missing.until = Some(self.dead_at);
            }
        }
    }

    /// Namespaces whose bundle is older than `sequence`. They are waited for as the silent are: whoever starts there can only ask for its
    /// first leaf, and gets the bundle with it.
    pub(super) fn mounts(&self, evidence: &Evidence, sequence: u64, missing: &mut Missing) {
        if !self.guards.mounts || self.silent_is_released(evidence.watched_since) {
            return;
        }
        let behind = evidence.mounts.iter().filter(|m| m.sequence < sequence).map(|m| m.namespace.clone());
        missing.namespaces.extend(behind);
        if !missing.namespaces.is_empty() {
            missing.until = Some(self.dead_at);
        }
    }

    /// Replicas that did not say `there`. One that answers is always waited for: it can take the state at any moment.
    pub(super) fn replicas(&self, evidence: &Evidence, there: impl Fn(&Holding) -> bool, missing: &mut Missing) {
        if !self.guards.replicas {
            return;
        }
        for replica in &evidence.replicas {
            let released = match &replica.holds {
                Some(holding) => there(holding),
                None => self.silent_is_released(evidence.watched_since),
            };
            if !released {
                missing.replicas.push(replica.name.clone());
                missing.until = Some(self.dead_at);
            }
        }
    }
}
