//! The serving certificate in the Secret `bowline-webhook`: written by the leader, loaded by every replica.

use std::{pin::pin, sync::Arc};

use futures_util::StreamExt;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api,
    api::PostParams,
    runtime::{WatchStreamExt, watcher::watch_object},
};

use super::{
    WebhookError,
    certificate::{SECRET_KEY, ServingState},
    secrets,
};
use crate::{
    config::{OPERATOR_NAME, WEBHOOK_SECRET},
    context::{Ctx, TaskResult},
};

/// Keeps [`Ctx::serving`] fresh for as long as it is polled, on every replica. What cannot be used changes nothing.
///
/// # Errors
/// None; it ends only with the process.
pub async fn watch(ctx: Arc<Ctx>) -> TaskResult {
    let gate = ctx.readiness.gate("webhook certificate");
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
        match state.certified_key() {
            Ok(key) => {
                ctx.serving.store(Some(Arc::new(key)));
                let at = i64::try_from(state.leaf.not_after).unwrap_or(i64::MAX);
                ctx.metrics.webhook_certificate_not_after.set(at);
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
