//! Reads and writes the Secret `bowline-ca`, always with the resource version that was read: of two writers one is told to read again.

use std::pin::pin;

use futures_util::StreamExt;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api,
    api::PostParams,
    runtime::{WatchStreamExt, watcher::watch_object},
};

use super::{
    authorities::{Authorities, SecretEntry},
    state::CaState,
};
use crate::{
    runtime::{
        config::{CA_SECRET, OPERATOR_NAME},
        readiness::ReadinessCheck,
        shutdown::TaskResult,
    },
    telemetry::{AuthorityLabels, MeshLabel, Metrics},
};

/// Keeps `authorities` fresh for as long as it is polled, on every replica.
///
/// # Errors
/// None; it ends only with the process.
pub async fn watch(
    secrets: Api<Secret>,
    authorities: Authorities,
    metrics: Metrics,
    ready: ReadinessCheck,
) -> TaskResult {
    let events = watch_object(secrets, CA_SECRET).default_backoff();
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(secret) => {
                authorities.observe(secret.as_ref());
                measure(&authorities, &metrics);
                ready.set(true);
            }
            Err(error) => tracing::warn!(%error, "the watch on Secret {CA_SECRET} failed, it is tried again"),
        }
    }
    Ok(())
}

/// What the Secret holds for a Mesh, and the state if that is good.
#[must_use]
pub fn read(secret: Option<&Secret>, mesh: &str) -> (SecretEntry, Option<CaState>) {
    let value = secret.and_then(|s| s.data.as_ref()).and_then(|d| d.get(&CaState::secret_key(mesh)));
    match value.map(|v| CaState::parse(mesh, &v.0)) {
        None => (SecretEntry::Missing, None),
        Some(Ok(state)) => (SecretEntry::Good, Some(state)),
        Some(Err(error)) => (SecretEntry::Bad(error), None),
    }
}

/// Writes a Mesh's state (`None`: removes it) over the Secret as it was read; `None`: there was no Secret.
///
/// # Errors
/// Those of the API server; 409 when somebody wrote in between.
pub async fn write(api: &Api<Secret>, read: Option<Secret>, mesh: &str, state: Option<&CaState>) -> kube::Result<()> {
    let exists = read.is_some();
    let mut secret = read.unwrap_or_else(empty);
    let data = secret.data.get_or_insert_default();
    match state {
        Some(state) => data.insert(CaState::secret_key(mesh), ByteString(state.to_json().to_vec())),
        None => data.remove(&CaState::secret_key(mesh)),
    };
    if exists {
        api.replace(CA_SECRET, &PostParams::default(), &secret).await?;
    } else if state.is_some() {
        api.create(&PostParams::default(), &secret).await?;
    }
    Ok(())
}

fn empty() -> Secret {
    let labels = [("app.kubernetes.io/managed-by".to_owned(), OPERATOR_NAME.to_owned())].into();
    let metadata = ObjectMeta { name: Some(CA_SECRET.into()), labels: Some(labels), ..ObjectMeta::default() };
    Secret { metadata, type_: Some("Opaque".into()), ..Secret::default() }
}

/// Expiry and sequence as metrics.
fn measure(authorities: &Authorities, metrics: &Metrics) {
    metrics.ca_not_after.clear();
    metrics.ca_bundle_sequence.clear();
    for mesh in authorities.names() {
        let Some(state) = authorities.state(&mesh) else { continue };
        for (kind, list) in [("root", &state.ledger.roots), ("issuer", &state.ledger.issuers)] {
            for authority in list {
                let labels = AuthorityLabels { mesh: mesh.clone(), kind, fingerprint: authority.id[..16].to_owned() };
                let at = i64::try_from(authority.not_after).unwrap_or(i64::MAX);
                metrics.ca_not_after.get_or_create(&labels).set(at);
            }
        }
        let sequence = i64::try_from(state.ledger.bundle_sequence).unwrap_or(i64::MAX);
        metrics.ca_bundle_sequence.get_or_create(&MeshLabel { mesh }).set(sequence);
    }
}
