//! The steps of a rotation and the guard of each.

use bowline_crds::mesh::{AuthorityPhase, RotationCause};

use super::{
    evidence::{Evidence, Report},
    guard::{Guards, Missing, SKEW_BOUND, Step},
    ledger::{Entry, Ledger},
    policy::Policy,
    risk::at_risk,
    trigger::renew_within,
    write::Write,
};

/// The next step, and who holds it; `None`: there is none.
pub(super) fn advance(
    ledger: &Ledger,
    policy: &Policy,
    evidence: &Evidence,
    now: u64,
    guards: Guards,
) -> Option<(Write, Missing)> {
    let of = |phase: AuthorityPhase| ledger.issuers.iter().find(move |i| i.phase == phase);
    Some(if of(AuthorityPhase::Staged).is_some() {
        (Write::Distribute, clocks(ledger, evidence, now))
    } else if of(AuthorityPhase::Distributed).is_some() {
        let emergency = ledger.active_root().is_some_and(|r| policy.distrust.contains(&r.id));
        let write = Write::Activate { renew_within: renew_within(evidence, emergency) };
        (write, may_sign(ledger, evidence, emergency, now, guards))
    } else if let Some(issuer) = of(AuthorityPhase::Retiring) {
        let emergency = issuer.root.as_ref().is_some_and(|r| policy.distrust.contains(r));
        let write = Write::DropIssuer { id: issuer.id.clone() };
        (write, issuer_may_go(ledger, issuer, evidence, emergency, now, guards))
    } else if let Some(root) = ledger.roots.iter().find(|r| r.phase == AuthorityPhase::Retiring) {
        let emergency = policy.distrust.contains(&root.id);
        let write = Write::DropRoot { id: root.id.clone(), revoke: emergency };
        (write, root_may_go(ledger, root, evidence, emergency, now, guards))
    } else {
        return None;
    })
}

/// A new certificate is not valid yet for whoever's clock is slow by more than it is backdated. Trust that has been lost already, or is
/// about to be, waits for no clock.
fn clocks(ledger: &Ledger, evidence: &Evidence, now: u64) -> Missing {
    let cause = ledger.rotation.as_ref().map(|r| r.cause);
    let urgent =
        matches!(cause, Some(RotationCause::Compromised | RotationCause::Expired)) || at_risk(ledger, now).is_some();
    let off = |skew: i64| skew.unsigned_abs() > SKEW_BOUND;
    let skewed = evidence.proxies.iter().filter(|p| !urgent && p.skew.is_some_and(off)).map(|p| p.name.clone());
    Missing { skewed: skewed.collect(), ..Missing::default() }
}

/// Everybody trusts the new root: every proxy has said so (or what it holds has expired), every replica lives with this ledger, and
/// whoever starts finds it mounted, wherever it could be written in that time.
fn may_sign(ledger: &Ledger, evidence: &Evidence, emergency: bool, now: u64, guards: Guards) -> Missing {
    let mut missing = Missing::default();
    let in_use = ledger.issuers.iter().filter(|i| !matches!(i.phase, AuthorityPhase::Distributed));
    let step = Step::new(ledger, in_use, emergency, now, guards);
    step.replicas(evidence, |r| r.revision >= ledger.revision, &mut missing);
    if let Some(root) = ledger.roots.iter().find(|r| r.phase == AuthorityPhase::Distributed) {
        step.mounts(evidence, root.sequence, &mut missing);
        if guards.bundle {
            step.proxies(evidence, |report| report.bundle_sequence >= root.sequence, &mut missing);
        }
    }
    missing
}

/// Nobody has a leaf of the issuing CA, and no replica signs with it.
fn issuer_may_go(
    ledger: &Ledger,
    issuer: &Entry,
    evidence: &Evidence,
    emergency: bool,
    now: u64,
    guards: Guards,
) -> Missing {
    let mut missing = Missing::default();
    let step = Step::new(ledger, std::iter::once(issuer), emergency, now, guards);
    step.replicas(evidence, |r| r.revision >= ledger.revision, &mut missing);
    if guards.leaf {
        let active = ledger.active_issuer().map(|i| &i.id);
        // Who has the bundle of this step also throws away an answer that was signed before it and is still on its way.
        let there =
            |report: &Report| report.bundle_sequence >= ledger.bundle_sequence && Some(&report.issuer) == active;
        step.proxies(evidence, there, &mut missing);
    }
    missing
}

/// No replica serves with a leaf below the root; that no proxy does was seen when its issuing CAs went, and is looked at again.
fn root_may_go(
    ledger: &Ledger,
    root: &Entry,
    evidence: &Evidence,
    emergency: bool,
    now: u64,
    guards: Guards,
) -> Missing {
    let mut missing = Missing::default();
    let step = Step::new(ledger, ledger.issuers.iter(), emergency, now, guards);
    let stays = |id: &str| ledger.issuers.iter().any(|i| i.id == id && i.root.as_deref() != Some(root.id.as_str()));
    step.replicas(evidence, |r| r.revision >= ledger.revision && stays(&r.issuer), &mut missing);
    // Whoever was given up when its issuing CA went is not waited for again.
    if guards.leaf && !emergency {
        let heard: Vec<_> = evidence.proxies.iter().filter(|p| !p.streams.is_empty()).cloned().collect();
        let heard = Evidence { proxies: heard, ..Evidence::default() };
        step.proxies(&heard, |report| stays(&report.issuer), &mut missing);
    }
    missing
}
