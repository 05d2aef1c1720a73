//! The serving certificate of the webhook. Comes in: the Secret `bowline-webhook`, which the leader writes. Goes out: the key for the next
//! handshake, on every replica.

pub mod state;

use std::{pin::pin, sync::Arc};

use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use rustls::sign::CertifiedKey;

use self::state::{CertificateError, ServingState};
use crate::{
    runtime::{config::WEBHOOK_SECRET, readiness::ReadinessCheck, shutdown::TaskResult},
    telemetry::Metrics,
};

/// What this replica's webhook server serves, and the state that it stands in: the last good ones.
#[derive(Debug, Default)]
pub struct ServingCertificate {
    key: ArcSwapOption<CertifiedKey>,
    state: ArcSwapOption<ServingState>,
}

impl ServingCertificate {
    /// For the next handshake; `None`: nothing was loaded yet.
    #[must_use]
    pub fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }

    /// Serves this from now on.
    pub fn store(&self, key: Option<Arc<CertifiedKey>>) {
        self.key.store(key);
    }

    /// The last good state that was read.
    #[must_use]
    pub fn state(&self) -> Option<Arc<ServingState>> {
        self.state.load_full()
    }

    /// Takes over what the Secret holds; when the certificate that is served then ends, in seconds since the Unix epoch. `None`: it is
    /// served later, when it is trusted, and another is served meanwhile.
    ///
    /// # Errors
    /// When it cannot be used; nothing is changed then.
    pub fn take(&self, state: ServingState) -> Result<Option<u64>, CertificateError> {
        let key = state.certified_key()?;
        let not_after = state.leaf.not_after;
        let waits = state.untrusted && self.key.load().is_some();
        self.state.store(Some(Arc::new(state)));
        if waits {
            return Ok(None);
        }
        self.store(Some(Arc::new(key)));
        Ok(Some(not_after))
    }
}

/// Keeps `certificate` fresh for as long as it is polled, on every replica. What cannot be used changes nothing.
///
/// # Errors
/// None; it ends only with the process.
pub async fn watch(
    secrets: Api<Secret>,
    certificate: Arc<ServingCertificate>,
    metrics: Metrics,
    ready: ReadinessCheck,
) -> TaskResult {
    let events = watch_object(secrets, WEBHOOK_SECRET).default_backoff();
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        let secret = match event {
            Ok(secret) => secret,
            Err(error) => {
                tracing::warn!(%error, "the watch on Secret {WEBHOOK_SECRET} failed, it is tried again");
                continue;
            }
        };
        let Some(state) = ServingState::read(secret.as_ref()) else { continue };
        match certificate.take(state) {
            Ok(not_after) => {
                if let Some(at) = not_after {
                    metrics.webhook_certificate_not_after.set(i64::try_from(at).unwrap_or(i64::MAX));
                }
                ready.set(true);
            }
            Err(error) => tracing::error!(%error, "the last good certificate of the webhook stays in force"),
        }
    }
    Ok(())
}
