//! Keeps the leaf alive: a new key and leaf at half-life, sooner when the trust bundle no longer covers the old one, and
//! attempts for ever when that fails, past expiry too.

use std::{sync::Arc, time::Duration};

use super::{client::Asker, store::Store};
use crate::{backoff::Backoff, clock, health::Health};

/// First ceiling of the wait after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Last ceiling of the wait after a failure.
const RETRY_MOST: Duration = Duration::from_secs(15);
/// How often the wall clock and the mounted bundle are looked at: suspended nodes lose no renewal.
const LOOK_EVERY: Duration = Duration::from_secs(30);
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

/// What to do next about the leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Get a new one; why.
    Renew(&'static str),
}

/// Decides the next step; `trusted` is whether the leaf still verifies against the bundle in use.
#[must_use]
pub fn decide(now: i64, renew_at: i64, trusted: bool) -> Step {
    if !trusted {
        Step::Renew("the trust bundle no longer covers the leaf")
    } else if now >= renew_at {
        Step::Renew("half of its life is over")
    } else {
        Step::Wait
    }
}

/// Obtains the first leaf and keeps renewing it; never returns.
pub async fn keep(asker: Asker, store: Arc<Store>, health: Arc<Health>) {
    loop {
        let renew_at = obtain(&asker, &store, &health).await;
        wait(&asker, &store, renew_at).await;
    }
}

/// Tries until there is a new leaf; gives when to renew it.
async fn obtain(asker: &Asker, store: &Store, health: &Health) -> i64 {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        let failure = match asker.obtain(store).await {
            Ok((leaf, bundle)) => {
                let (id, not_after) = (leaf.id.clone(), leaf.not_after);
                match store.install_leaf(leaf, bundle) {
                    Ok(()) if !is_trusted(store) => {
                        "the new leaf is from an issuer that the trust bundle no longer covers: the control plane lags behind".into()
                    }
                    Ok(()) => {
                        health.identity.succeeded();
                        let now = clock::unix_seconds();
                        let at = renew_at(now, not_after, rand::random());
                        tracing::info!(%id, not_after, renewal_in_seconds = at - now, "a new leaf is in use");
                        return at;
                    }
                    Err(e) => e.to_string(),
                }
            }
            Err(e) => e.to_string(),
        };
        let wait = backoff.next_wait();
        let held = store.current().map_or(0, |c| (c.not_after - clock::unix_seconds()).max(0));
        tracing::warn!(
            error = %failure, retry_in_ms = wait.as_millis() as u64, old_leaf_valid_for_seconds = held, "no new leaf"
        );
        health.identity.failed(failure);
        tokio::time::sleep(wait).await;
    }
}

/// Waits until the leaf is to be renewed; meanwhile takes over mounted bundles, which arrive without a control plane too.
async fn wait(asker: &Asker, store: &Store, renew_at: i64) {
    let mut changes = store.watch();
    // What there is now was there when the leaf was checked, or is judged in the first round.
    changes.mark_unchanged();
    loop {
        let now = clock::unix_seconds();
        if let Step::Renew(why) = decide(now, renew_at, is_trusted(store)) {
            tracing::info!(why, "the leaf is renewed");
            return;
        }
        let left = Duration::from_secs((renew_at - now).unsigned_abs());
        tokio::select! {
            () = tokio::time::sleep(left.min(LOOK_EVERY)) => take_mounted(asker, store),
            _ = changes.changed() => {}
        }
    }
}

/// Whether the bundle in use covers the leaf in use. One without roots trusts nobody: no new leaf would help.
fn is_trusted(store: &Store) -> bool {
    match (store.leaf(), store.bundle()) {
        (Some(leaf), Some(bundle)) => {
            // Expiry is another matter: here the leaf counts as valid.
            let at = clock::unix_seconds().clamp(leaf.not_before, leaf.not_after);
            bundle.roots.is_empty() || leaf.verifies(&bundle, at)
        }
        _ => true,
    }
}

fn take_mounted(asker: &Asker, store: &Store) {
    match asker.mounts.trust() {
        Ok((_, bundle)) => drop(super::client::newest(store, bundle)),
        Err(e) => tracing::warn!(error = %e, "the mounted trust bundle cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_leaf_is_renewed_half_way() {
        assert_eq!(renew_at(1000, 1000 + 86_400, 0.5), 1000 + 43_200);
        assert_eq!(renew_at(1000, 1000 + 86_400, 0.0), 1000 + 38_880);
        assert_eq!(renew_at(1000, 1000 + 86_400, 1.0), 1000 + 47_520);
        assert_eq!(renew_at(1000, 900, 0.5), 1000, "an expired one at once");
    }

    #[test]
    fn a_leaf_that_lost_trust_does_not_wait() {
        assert_eq!(decide(10, 20, true), Step::Wait);
        assert!(matches!(decide(20, 20, true), Step::Renew(_)));
        assert!(matches!(decide(10, 20, false), Step::Renew(_)));
    }

    proptest! {
        #[test]
        fn renewal_is_between_now_and_the_end(now in 0..4_000_000_000_i64, life in 1..31_536_000_i64, unit in 0.0..1.0) {
            let at = renew_at(now, now + life, unit);
            prop_assert!(at >= now && at < now + life);
        }
    }
}
