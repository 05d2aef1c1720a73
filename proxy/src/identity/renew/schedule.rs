//! When the leaf is to be renewed. Pure.

use crate::contract::resource::Bundle;

/// Share of the half-life by which renewals of different proxies drift apart.
const JITTER: f64 = 0.1;

/// When to renew a leaf that was obtained at `now` and ends at `not_after` (Unix seconds): half-way, give or take a tenth of
/// that, for an evenly drawn `unit` of 0 to 1.
#[must_use]
pub fn renew_at(now: i64, not_after: i64, unit: f64) -> i64 {
    let life = not_after.saturating_sub(now).max(0) as f64;
    let share = 0.5 * (1.0 + JITTER * (2.0 * unit.clamp(0.0, 1.0) - 1.0));
    now.saturating_add((life * share) as i64)
}

/// The renewal that a bundle asks for because it wants leaves of another issuer, and when it is due here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlyRenewal {
    /// Of the bundle.
    pub sequence: u64,
    /// Unix seconds.
    pub at: i64,
}

impl EarlyRenewal {
    /// What `bundle` asks of a leaf that `issuer` signed. The moment is drawn once for each sequence, by an even `unit` of 0 to
    /// 1; further bundles that ask put nothing off that was drawn for an earlier one (`held`).
    #[must_use]
    pub fn of(bundle: &Bundle, issuer: &[u8; 32], held: Option<Self>, now: i64, unit: f64) -> Option<Self> {
        if bundle.issuers.is_empty() || bundle.issuers.contains(issuer) {
            return None;
        }
        if held.is_some_and(|h| h.sequence == bundle.sequence) {
            return held;
        }
        let within = f64::from(bundle.renew_within_seconds) * unit.clamp(0.0, 1.0);
        let drawn = now.saturating_add(within as i64);
        let at = held.map_or(drawn, |h| h.at.min(drawn));
        Some(Self { sequence: bundle.sequence, at })
    }
}

/// What to do next about the leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing before that time (Unix seconds).
    Wait(i64),
    /// Get a new one; why.
    Renew(&'static str),
}

/// Decides the next step; `renew_at` is half of the life of the leaf in use, `trusted` whether it still verifies against the bundle
/// in use.
#[must_use]
pub fn decide(now: i64, renew_at: Option<i64>, early: Option<EarlyRenewal>, trusted: bool) -> Action {
    let Some(renew_at) = renew_at else { return Action::Renew("there is none yet") };
    let next = early.map_or(renew_at, |w| w.at.min(renew_at));
    if !trusted {
        Action::Renew("the trust bundle no longer covers the leaf")
    } else if now >= renew_at {
        Action::Renew("half of its life is over")
    } else if now >= next {
        Action::Renew("the trust bundle asks for leaves of another issuer")
    } else {
        Action::Wait(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    fn bundle(sequence: u64, issuers: &[[u8; 32]], within: u32) -> Bundle {
        Bundle { sequence, issuers: issuers.to_vec(), renew_within_seconds: within, ..Bundle::default() }
    }

    #[test]
    fn a_leaf_is_renewed_half_way() {
        assert_eq!(renew_at(1000, 1000 + 86_400, 0.5), 1000 + 43_200);
        assert_eq!(renew_at(1000, 1000 + 86_400, 0.0), 1000 + 38_880);
        assert_eq!(renew_at(1000, 1000 + 86_400, 1.0), 1000 + 47_520);
        assert_eq!(renew_at(1000, 900, 0.5), 1000, "an expired one at once");
    }

    #[test]
    fn a_leaf_that_lost_trust_does_not_wait() {
        assert!(matches!(decide(10, None, None, true), Action::Renew(_)));
        assert_eq!(decide(10, Some(20), None, true), Action::Wait(20));
        assert!(matches!(decide(20, Some(20), None, true), Action::Renew(_)));
        assert!(matches!(decide(10, Some(20), None, false), Action::Renew(_)));
    }

    #[test]
    fn a_wish_is_followed_when_its_time_has_come() {
        let early = |at| Some(EarlyRenewal { sequence: 1, at });
        assert_eq!(decide(10, Some(20), early(15), true), Action::Wait(15));
        assert_eq!(decide(10, Some(20), early(30), true), Action::Wait(20));
        assert!(matches!(decide(15, Some(20), early(15), true), Action::Renew(_)));
    }

    #[test]
    fn only_a_leaf_of_another_issuer_is_wished_away() {
        assert_eq!(EarlyRenewal::of(&bundle(1, &[], 60), &OLD, None, 100, 0.5), None);
        assert_eq!(EarlyRenewal::of(&bundle(1, &[NEW, OLD], 60), &OLD, None, 100, 0.5), None);
        assert_eq!(
            EarlyRenewal::of(&bundle(1, &[NEW], 60), &OLD, None, 100, 0.5),
            Some(EarlyRenewal { sequence: 1, at: 130 })
        );
        assert_eq!(
            EarlyRenewal::of(&bundle(1, &[NEW], 0), &OLD, None, 100, 0.9),
            Some(EarlyRenewal { sequence: 1, at: 100 })
        );
        let held = Some(EarlyRenewal { sequence: 1, at: 130 });
        assert_eq!(EarlyRenewal::of(&bundle(2, &[OLD], 60), &OLD, held, 100, 0.5), None, "the wish was withdrawn");
    }

    #[test]
    fn the_moment_is_drawn_once_for_each_sequence_and_never_put_off() {
        let held = EarlyRenewal::of(&bundle(1, &[NEW], 60), &OLD, None, 100, 0.5);
        assert_eq!(EarlyRenewal::of(&bundle(1, &[NEW], 60), &OLD, held, 120, 0.1), held);
        assert_eq!(
            EarlyRenewal::of(&bundle(2, &[NEW], 60), &OLD, held, 120, 0.9),
            Some(EarlyRenewal { sequence: 2, at: 130 })
        );
        assert_eq!(
            EarlyRenewal::of(&bundle(3, &[NEW], 10), &OLD, held, 110, 0.5),
            Some(EarlyRenewal { sequence: 3, at: 115 })
        );
    }

    proptest! {
        #[test]
        fn renewal_is_between_now_and_the_end(now in 0..4_000_000_000_i64, life in 1..31_536_000_i64, unit in 0.0..1.0) {
            let at = renew_at(now, now + life, unit);
            prop_assert!(at >= now && at < now + life);
        }

        #[test]
        fn a_wish_is_followed_within_its_time(now in 0..4_000_000_000_i64, within in 0..3600_u32, unit in 0.0..1.0) {
            let early = EarlyRenewal::of(&bundle(1, &[NEW], within), &OLD, None, now, unit).unwrap();
            prop_assert!(early.at >= now && early.at <= now + i64::from(within));
        }
    }
}
