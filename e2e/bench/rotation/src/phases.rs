//! How long each phase of a rotation takes.

use std::time::Instant;

use bowline_crds::mesh::AuthorityPhase;
use bowline_operator::ca::rotation::ledger::{Entry, Ledger};

/// Where a rotation of the root stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The leader has not begun.
    Asked,
    /// New authorities are made.
    Staged,
    /// Bundles hold both roots.
    Distributed,
    /// The new issuing CA signs.
    Active,
    /// The old issuing CA is gone, replicas change their leaves.
    IssuerGone,
    /// The old root is gone.
    RootGone,
    /// Nothing is under way.
    Over,
}

impl Phase {
    /// Of a ledger; [`Phase::Asked`] is never told.
    #[must_use]
    pub(super) fn of(ledger: &Ledger) -> Self {
        let any = |list: &[Entry], phase| list.iter().any(|e| e.phase == phase);
        if any(&ledger.issuers, AuthorityPhase::Staged) {
            Self::Staged
        } else if any(&ledger.issuers, AuthorityPhase::Distributed) {
            Self::Distributed
        } else if any(&ledger.issuers, AuthorityPhase::Retiring) {
            Self::Active
        } else if any(&ledger.roots, AuthorityPhase::Retiring) {
            Self::IssuerGone
        } else if ledger.rotation.is_some() {
            Self::RootGone
        } else {
            Self::Over
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Staged => "staged",
            Self::Distributed => "distributed",
            Self::Active => "active",
            Self::IssuerGone => "issuer_gone",
            Self::RootGone => "root_gone",
            Self::Over => "over",
        }
    }
}

/// A clock that stops at every phase.
#[derive(Debug)]
pub(super) struct Phases {
    now: Phase,
    since: Instant,
    ended: Vec<(&'static str, f64)>,
    signing: Signing,
}

/// Leaves while the new issuing CA is active beside the old one.
#[derive(Debug, Default)]
struct Signing {
    before: u64,
    after: u64,
    seconds: f64,
}

impl Phases {
    /// A rotation was just asked for.
    #[must_use]
    pub(super) fn new() -> Self {
        Self { now: Phase::Asked, since: Instant::now(), ended: Vec::new(), signing: Signing::default() }
    }

    /// Takes note of where it stands, and how many leaves were signed ever; whether a phase ended.
    pub(super) fn look(&mut self, ledger: &Ledger, signed: u64) -> bool {
        if self.now == Phase::Active && signed > self.signing.after {
            (self.signing.after, self.signing.seconds) = (signed, self.since.elapsed().as_secs_f64());
        }
        let phase = Phase::of(ledger);
        let not_begun = self.now == Phase::Asked && phase == Phase::Over;
        if phase == self.now || not_begun {
            return false;
        }
        if phase == Phase::Active {
            self.signing = Signing { before: signed, after: signed, seconds: 0.0 };
        }
        self.ended.push((self.now.name(), self.since.elapsed().as_secs_f64()));
        (self.now, self.since) = (phase, Instant::now());
        true
    }

    /// Everybody lives with how it ended.
    pub(super) fn settled(&mut self) {
        self.ended.push(("settled", self.since.elapsed().as_secs_f64()));
    }

    /// Whether nothing is under way any more.
    #[must_use]
    pub(super) fn is_over(&self) -> bool {
        self.now == Phase::Over
    }

    /// Seconds of every phase.
    #[must_use]
    pub(super) fn seconds(&self) -> Vec<(&'static str, f64)> {
        self.ended.clone()
    }

    /// How many leaves were signed per second while all were renewed.
    #[must_use]
    pub(super) fn leaves_per_second(&self) -> f64 {
        if self.signing.seconds == 0.0 {
            return 0.0;
        }
        (self.signing.after - self.signing.before) as f64 / self.signing.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_begun_is_not_over() {
        let mut phases = Phases::new();
        assert!(!phases.look(&Ledger::default(), 0));
        assert!(!phases.is_over());
        assert_eq!(phases.leaves_per_second(), 0.0);
    }
}
