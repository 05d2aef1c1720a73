//! Writes the Secret `bowline-webhook`, always with the resource version that was read.

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};

use super::error::WebhookError;
use crate::{
    runtime::config::{OPERATOR_NAME, WEBHOOK_SECRET},
    serving::certificate::state::{SECRET_KEY, ServingState},
};

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
