//! The serving certificate in the Secret `bowline-webhook`: written by the leader, loaded by every replica.

use std::{pin::pin, sync::Arc};

use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api,
    api::PostParams,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use rustls::sign::CertifiedKey;

use super::{
    WebhookError,
    certificate::{CertificateError, SECRET_KEY, ServingState},
    secrets,
};
use crate::runtime::{
    config::{OPERATOR_NAME, WEBHOOK_SECRET},
    context::Ctx,
    shutdown::TaskResult,
};

/// What this replica's webhook server serves, and the state that it stands in: the last good ones.
#[derive(Debug, Default)]
pub struct Serving {
    key: ArcSwapOption<CertifiedKey>,
    state: ArcSwapOption<ServingState>,
}

impl Serving {
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

/// Keeps [`Ctx::serving`] fresh for as long as it is polled, on every replica. What cannot be used changes nothing.
///
/// # Errors
/// None; it ends only with the process.
pub async fn watch(ctx: Arc<Ctx>) -> TaskResult {
    let gate = ctx.readiness.check("webhook certificate");
    let events = watch_object(secrets(&ctx), WEBHOOK_SECRET).default_backoff();
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
        match ctx.serving.take(state) {
            Ok(not_after) => {
                if let Some(at) = not_after {
                    ctx.metrics.webhook_certificate_not_after.set(i64::try_from(at).unwrap_or(i64::MAX));
                }
                gate.set(true);
            }
            Err(error) => tracing::error!(%error, "the last good certificate of the webhook stays in force"),
        }
    }
    Ok(())
}

/// Writes the state over the Secret as it was read; `None`: there was none.
///
/// # Errors
/// Those of the API server; 409 when somebody wrote in between.
pub async fn write(api: &Api<Secret>, read: Option<&Secret>, state: &ServingState) -> Result<(), WebhookError> {
    let mut secret = read.cloned().unwrap_or_else(empty);
    // Strings and numbers: nothing in it can fail to serialise.
    let json = serde_json::to_vec(state).unwrap_or_default();
    secret.data.get_or_insert_default().insert(SECRET_KEY.into(), ByteString(json));
    let written = match read {
        Some(_) => api.replace(WEBHOOK_SECRET, &PostParams::default(), &secret).await,
        None => api.create(&PostParams::default(), &secret).await,
    };
    written.map(|_| ()).map_err(|error| WebhookError::Api { object: "Secret bowline-webhook", error })
}

fn empty() -> Secret {
    let labels = [("app.kubernetes.io/managed-by".to_owned(), OPERATOR_NAME.to_owned())].into();
    let metadata = ObjectMeta { name: Some(WEBHOOK_SECRET.into()), labels: Some(labels), ..ObjectMeta::default() };
    Secret { metadata, type_: Some("Opaque".into()), ..Secret::default() }
}
