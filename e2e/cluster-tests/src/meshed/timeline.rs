//! Every change of a Mesh's certificates while a rotation runs: how long each phase took, and that no state was seen that must not be.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bowline_crds::Mesh;
use bowline_crds::mesh::{AuthorityPhase, AuthorityStatus, CertificatesStatus, RotationCause, RotationKind};
use futures_util::StreamExt as _;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::task::JoinHandle;

use super::rotation::{describe, phase};
use super::shared::SOON;
use crate::context::{Context, Figures};

/// The certificates as they were from some moment on.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Time after the timeline's start.
    pub after: Duration,
    /// What the status said.
    pub certificates: CertificatesStatus,
}

/// A running watch.
pub struct Timeline {
    mesh: String,
    task: JoinHandle<()>,
    seen: Arc<Mutex<Vec<Seen>>>,
    start: Instant,
}

impl Timeline {
    /// Starts to watch, with what is there.
    ///
    /// # Errors
    /// When the Mesh has no certificates.
    pub async fn start(cx: &Context, mesh: &str) -> Result<Self> {
        let first = Seen { after: Duration::ZERO, certificates: super::rotation::certificates(cx, mesh).await? };
        let (start, seen) = (Instant::now(), Arc::new(Mutex::new(vec![first])));
        let config = watcher::Config::default().fields(&format!("metadata.name={mesh}"));
        let changes = watcher(Api::<Mesh>::all(cx.client()), config).default_backoff().applied_objects();
        let into = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut changes = std::pin::pin!(changes);
            while let Some(change) = changes.next().await {
                // A watch that breaks is taken up again, with the state as it then is.
                let Some(now) = change.ok().and_then(|mesh| mesh.status?.certificates) else { continue };
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.last().is_none_or(|last| last.certificates != now) {
                    seen.push(Seen { after: start.elapsed(), certificates: now });
                }
            }
        });
        Ok(Self { mesh: mesh.to_owned(), task, seen, start })
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Ends it when it has seen what is there now; fails when a state was seen that must not be.
    ///
    /// # Errors
    /// Says which; and when it does not catch up in a minute.
    pub async fn stop(self, cx: &Context) -> Result<History> {
        let so_far = || self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Whoever asks sees a change before it comes over the watch.
        let caught_up = cx.eventually(SOON, "the watch lags behind", || async {
            let now = super::rotation::certificates(cx, &self.mesh).await?;
            let seen = so_far();
            let last = seen.last().context("nothing was seen")?;
            ensure!(last.certificates == now, "{} instead of {}", describe(&last.certificates), describe(&now));
            Ok(seen)
        });
        let caught_up = caught_up.await;
        self.task.abort();
        let history = History(caught_up?);
        history.check()?;
        Ok(history)
    }
}

/// What a timeline saw, oldest first.
#[derive(Clone, Debug, Default)]
pub struct History(pub Vec<Seen>);

impl History {
    /// At every moment one root and one issuing CA sign, and the sequence of bundles only grows.
    fn check(&self) -> Result<()> {
        let active = |list: &[AuthorityStatus]| list.iter().filter(|a| a.phase == AuthorityPhase::Active).count();
        let mut sequence = 0;
        for Seen { after, certificates } in &self.0 {
            let when = || format!("after {} s: {}", after.as_secs_f32(), describe(certificates));
            ensure!(active(&certificates.roots) == 1, "not one active root {}", when());
            ensure!(active(&certificates.issuers) == 1, "not one active issuing CA {}", when());
            ensure!(certificates.bundle_sequence >= sequence, "the bundle's sequence went back {}", when());
            sequence = certificates.bundle_sequence;
        }
        Ok(())
    }

    /// Fails unless a rotation of this kind and cause was seen, and no other.
    ///
    /// # Errors
    /// Says what was seen.
    pub fn only(&self, kind: RotationKind, cause: RotationCause) -> Result<()> {
        let seen: Vec<_> = self.0.iter().filter_map(|s| s.certificates.rotation.as_ref()).collect();
        ensure!(!seen.is_empty(), "the status never told of a rotation");
        match seen.iter().find(|r| (r.kind, r.cause) != (kind, cause)) {
            Some(other) => {
                anyhow::bail!("a rotation {:?} ({:?}) instead of {kind:?} ({cause:?})", other.kind, other.cause)
            }
            None => Ok(()),
        }
    }

    /// Seconds after the start at which the successor of `old` was in every bundle, at which it signed, and at which `old` was gone.
    ///
    /// # Errors
    /// When it was not replaced.
    pub fn seconds(&self, kind: RotationKind, old: &str) -> Result<Seconds> {
        let list = |seen: &Seen| match kind {
            RotationKind::Root => seen.certificates.roots.clone(),
            RotationKind::Issuer => seen.certificates.issuers.clone(),
        };
        let new_is = |seen: &Seen, phases: &[AuthorityPhase]| {
            list(seen).iter().any(|a| a.fingerprint != old && phases.contains(&a.phase))
        };
        let first = |is: &dyn Fn(&Seen) -> bool| self.0.iter().find(|seen| is(seen)).map(|seen| tenths(seen.after));
        let later = [AuthorityPhase::Distributed, AuthorityPhase::Active];
        Ok(Seconds {
            distributed: first(&|seen| new_is(seen, &later)).context("no successor was ever distributed")?,
            active: first(&|seen| new_is(seen, &later[1..])).context("no successor was ever active")?,
            retired: first(&|seen| new_is(seen, &later[1..]) && phase(&list(seen), old).is_none())
                .context("the old one never went")?,
        })
    }

    /// All of it, for those who look for what must not be in it.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.iter().map(|seen| serde_json::to_string(&seen.certificates).unwrap_or_default() + "\n").collect()
    }
}

/// See [`History::seconds`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seconds {
    /// In every bundle, or soon to be.
    pub distributed: f64,
    /// It signs.
    pub active: f64,
    /// The old one is gone.
    pub retired: f64,
}

impl Seconds {
    /// Of two rotations the longer of each.
    #[must_use]
    pub fn or_slower(self, other: Self) -> Self {
        Self {
            distributed: self.distributed.max(other.distributed),
            active: self.active.max(other.active),
            retired: self.retired.max(other.retired),
        }
    }

    /// Puts them into a test's figures.
    #[must_use]
    pub fn figures(&self, figures: Figures) -> Figures {
        figures
            .with("seconds_distributed", self.distributed)
            .with("seconds_active", self.active)
            .with("seconds_retired", self.retired)
    }
}

fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use AuthorityPhase::{Active, Distributed, Retiring, Staged};

    use super::*;
    use crate::meshed::rotation::tests::status;

    fn history(states: &[CertificatesStatus]) -> History {
        let at = |n: usize| Duration::from_secs(n as u64);
        let seen = states.iter().enumerate().map(|(n, s)| Seen { after: at(n), certificates: s.clone() });
        History(seen.collect())
    }

    #[test]
    fn phases_are_timed_by_what_was_seen() {
        let issuers = [("i", Active)];
        let all = history(&[
            status(&[("old", Active)], &issuers, 1),
            status(&[("old", Active), ("new", Staged)], &issuers, 1),
            status(&[("old", Active), ("new", Distributed)], &issuers, 2),
            status(&[("old", Retiring), ("new", Active)], &issuers, 2),
            status(&[("new", Active)], &issuers, 3),
        ]);
        all.check().unwrap();
        let seconds = all.seconds(RotationKind::Root, "old").unwrap();
        assert_eq!(seconds, Seconds { distributed: 2.0, active: 3.0, retired: 4.0 });
        assert!(all.seconds(RotationKind::Issuer, "i").is_err(), "the issuing CA was not replaced");
        assert!(all.only(RotationKind::Root, RotationCause::Requested).is_err(), "no rotation was told of");
    }

    #[test]
    fn a_phase_that_was_too_short_to_be_seen_counts_as_begun_with_the_next() {
        let issuers = [("i", Active)];
        let all = history(&[status(&[("old", Active)], &issuers, 1), status(&[("new", Active)], &issuers, 3)]);
        let seconds = all.seconds(RotationKind::Root, "old").unwrap();
        assert_eq!(seconds, Seconds { distributed: 1.0, active: 1.0, retired: 1.0 });
    }

    #[test]
    fn states_that_must_not_be_are_found() {
        let good = status(&[("r", Active)], &[("i", Active)], 2);
        for bad in [
            status(&[("r", Retiring)], &[("i", Active)], 2),
            status(&[("r", Active), ("s", Active)], &[("i", Active)], 2),
            status(&[("r", Active)], &[("i", Retiring)], 2),
            status(&[("r", Active)], &[("i", Active)], 1),
        ] {
            assert!(history(&[good.clone(), bad.clone()]).check().is_err(), "{bad:?}");
        }
    }
}
