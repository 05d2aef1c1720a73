//! Keeps the leaf alive: a new key and leaf at half-life, sooner when the trust bundle no longer covers the old one or asks for
//! another issuer's, and attempts for ever when that fails, past expiry too.

use std::{sync::Arc, time::Duration};

use super::{
    client::CertificateClient,
    leaf::Leaf,
    store::{Store, StoreError},
};
use crate::{
    contract::resource::Bundle,
    identity::{backoff::Backoff, clock},
    telemetry::health::ComponentHealth,
};

pub mod schedule;

use schedule::{Action, EarlyRenewal, decide, renew_at};

/// First ceiling of the wait after an attempt that did not help.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Last ceiling of it.
const RETRY_MOST: Duration = Duration::from_secs(15);
/// How often the wall clock and the mounted bundle are read: suspended nodes lose no renewal.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// Obtains the first leaf and keeps renewing it; never returns.
pub async fn keep(client: CertificateClient, store: Arc<Store>, health: Arc<ComponentHealth>) {
    let mut schedule = Schedule::default();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    let mut changes = store.watch();
    loop {
        // What changes from here on is taken into account again.
        changes.mark_unchanged();
        match schedule.next(&store) {
            Action::Wait(until) => {
                let left = Duration::from_secs((until - clock::unix_seconds()).max(0).unsigned_abs());
                tokio::select! {
                    () = tokio::time::sleep(left.min(POLL_INTERVAL)) => take_mounted(&client, &store),
                    _ = changes.changed() => {}
                }
            }
            Action::Renew(why) => {
                tracing::debug!(why, "the leaf is renewed");
                let outcome = obtain(&client, &store).await;
                if let Some(at) = report(&store, &health, outcome) {
                    schedule.renew_at = Some(at);
                }
                match schedule.next(&store) {
                    Action::Wait(_) => backoff.reset(),
                    Action::Renew(why) => {
                        let wait = backoff.next_wait();
                        tracing::info!(why, retry_in_ms = wait.as_millis() as u64, "the leaf is still to be renewed");
                        tokio::time::sleep(wait).await;
                    }
                }
            }
        }
    }
}

/// When the leaf in use is to be renewed.
#[derive(Debug, Default)]
struct Schedule {
    /// Half-way of its life.
    renew_at: Option<i64>,
    /// What the bundle asks for.
    early: Option<EarlyRenewal>,
}

impl Schedule {
    fn next(&mut self, store: &Store) -> Action {
        let now = clock::unix_seconds();
        self.early = match (store.leaf(), store.bundle()) {
            (Some(leaf), Some(bundle)) => {
                EarlyRenewal::of(&bundle, &leaf.issuer_sha256, self.early.take(), now, rand::random())
            }
            _ => None,
        };
        decide(now, self.renew_at, self.early, is_trusted(store))
    }
}

/// What came of an attempt.
enum Outcome {
    /// A leaf that is in use now, and when to renew it.
    Installed(i64),
    /// A leaf that the bundle in use does not cover; it is in use for want of a better one.
    Untrusted,
    /// A leaf from before the bundle in use, or of an issuer that is not wanted any more while the one in use is of one that is.
    Stale,
    /// None.
    Failed(String),
}

/// One attempt.
async fn obtain(client: &CertificateClient, store: &Store) -> Outcome {
    let (leaf, bundle) = match client.obtain(store).await {
        Ok(obtained) => obtained,
        Err(e) => return Outcome::Failed(e.to_string()),
    };
    if is_stale(store, &leaf, &bundle) {
        return Outcome::Stale;
    }
    let not_after = leaf.not_after;
    match store.install_leaf(leaf, bundle) {
        Ok(()) if !is_trusted(store) => Outcome::Untrusted,
        Ok(()) => Outcome::Installed(renew_at(clock::unix_seconds(), not_after, rand::random())),
        Err(StoreError::Overtaken { .. }) => Outcome::Stale,
        Err(e) => Outcome::Failed(e.to_string()),
    }
}

/// Whether a new leaf would be worse than the one in use: a replica that lags behind signed it, and its issuer may be dropped as soon as
/// nobody reports it any more.
fn is_stale(store: &Store, leaf: &Leaf, offered: &Bundle) -> bool {
    let (Some(used), held) = (store.leaf(), store.bundle()) else { return false };
    let newest = held.as_deref().filter(|h| h.sequence >= offered.sequence).unwrap_or(offered);
    let wanted = |leaf: &Leaf| newest.issuers.is_empty() || newest.issuers.contains(&leaf.issuer_sha256);
    !wanted(leaf) && wanted(&used) && used.verifies(newest, clock::unix_seconds())
}

/// Logs an outcome and records it in `health`; gives when to renew the leaf if there is a new one.
fn report(store: &Store, health: &ComponentHealth, outcome: Outcome) -> Option<i64> {
    let held = store.current().map_or(0, |c| (c.not_after - clock::unix_seconds()).max(0));
    let failure = match outcome {
        Outcome::Installed(at) => {
            health.succeeded();
            let renewal_in = at - clock::unix_seconds();
            tracing::info!(valid_for_seconds = held, renewal_in_seconds = renewal_in, "a new leaf is in use");
            return Some(at);
        }
        Outcome::Stale => {
            // The leaf in use is fine, and the control plane answers.
            health.succeeded();
            tracing::info!("a leaf that the newest bundle has overtaken is not taken: another is asked for");
            return None;
        }
        Outcome::Untrusted => {
            "the new leaf is from an issuer that the trust bundle no longer covers: the control plane lags behind"
                .into()
        }
        Outcome::Failed(e) => e,
    };
    tracing::warn!(error = %failure, old_leaf_valid_for_seconds = held, "no new leaf");
    health.failed(failure);
    None
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

/// Takes over the mounted bundle, which arrives without a control plane too.
fn take_mounted(client: &CertificateClient, store: &Store) {
    match client.mounts.trust() {
        Ok((_, bundle)) => drop(store.offer_bundle(bundle)),
        Err(e) => tracing::warn!(error = %e, "the mounted trust bundle cannot be read"),
    }
}
