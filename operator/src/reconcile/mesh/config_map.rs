//! `bowline-trust-MESH`: the trust bundle and what a sidecar must know to reach the control plane, mounted into every meshed pod.

use std::{collections::BTreeMap, net::IpAddr};

use bowline_crds::names::OWNER_LABEL;
use bowline_proxy::contract::bootstrap::{MeshInfo, TRUST_CONFIG_MAP_PREFIX, TRUST_KEY_BUNDLE, TRUST_KEY_MESH};
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;

use crate::{
    ca::{fingerprint::fingerprint, issuance::state::CaState},
    cluster::mesh::validate::Valid,
    runtime::config::{CONTENT_ANNOTATION, Config, OPERATOR_NAME, control_identity},
};

/// The same data for every namespace.
pub type Content = BTreeMap<String, String>;

/// Bundle and `mesh.json`.
#[must_use]
pub fn content(valid: &Valid, ca: &CaState, config: &Config, control_ips: &[IpAddr]) -> Content {
    let info = MeshInfo {
        mesh: valid.name.clone(),
        trust_domain: valid.trust_domain.clone(),
        bundle_sequence: ca.ledger.bundle_sequence,
        control_address: config.control_address(),
        control_ips: control_ips.to_vec(),
        control_sni: Config::control_sni(&valid.name),
        control_identity: control_identity(&config.namespace, &valid.trust_domain),
        issuers_sha256: ca.ledger.active_issuer().map(|i| i.id.clone()).into_iter().collect(),
        renew_within_seconds: ca.ledger.renew_within,
        revoked_sha256: ca.ledger.revoked.iter().map(|r| r.id.clone()).collect(),
    };
    // Strings and numbers: nothing in it can fail to serialise.
    let info = serde_json::to_string(&info).unwrap_or_default();
    [(TRUST_KEY_BUNDLE.to_owned(), ca.bundle_pem()), (TRUST_KEY_MESH.to_owned(), info)].into()
}

/// Name of a Mesh's ConfigMap.
#[must_use]
pub fn name(mesh: &str) -> String {
    format!("{TRUST_CONFIG_MAP_PREFIX}{mesh}")
}

/// The ConfigMap for one namespace.
#[must_use]
pub fn build(mesh: &str, namespace: &str, content: &Content) -> ConfigMap {
    let labels = [
        (OWNER_LABEL.to_owned(), mesh.to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), OPERATOR_NAME.to_owned()),
    ];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name(mesh)),
            namespace: Some(namespace.into()),
            labels: Some(labels.into()),
            annotations: Some([(CONTENT_ANNOTATION.to_owned(), hash(content))].into()),
            ..ObjectMeta::default()
        },
        data: Some(content.clone()),
        ..ConfigMap::default()
    }
}

/// Whether what was seen is what is wanted; more labels and annotations are other people's business, more data is not.
#[must_use]
pub fn is_current(seen: &ConfigMap, wanted: &ConfigMap) -> bool {
    seen.data == wanted.data
        && seen.binary_data.as_ref().is_none_or(BTreeMap::is_empty)
        && wanted.labels().iter().all(|(k, v)| seen.labels().get(k) == Some(v))
        && wanted.annotations().iter().all(|(k, v)| seen.annotations().get(k) == Some(v))
}

/// Whether the data is not what the operator wrote last.
#[must_use]
pub fn was_edited(seen: &ConfigMap) -> bool {
    let written = seen.annotations().get(CONTENT_ANNOTATION);
    let found = hash(&seen.data.clone().unwrap_or_default());
    written.is_some_and(|written| *written != found)
}

/// What was seen, with the operator's part as it should be and other people's labels and annotations as they are.
#[must_use]
pub fn repaired(seen: &ConfigMap, wanted: ConfigMap) -> ConfigMap {
    let mut object = seen.clone();
    object.managed_fields_mut().clear();
    object.labels_mut().extend(wanted.metadata.labels.unwrap_or_default());
    object.annotations_mut().extend(wanted.metadata.annotations.unwrap_or_default());
    object.data = wanted.data;
    object.binary_data = None;
    object
}

/// The bundle's sequence as a ConfigMap tells it.
#[must_use]
pub fn sequence(seen: &ConfigMap) -> Option<u64> {
    let info = seen.data.as_ref()?.get(TRUST_KEY_MESH)?;
    serde_json::from_str::<MeshInfo>(info).ok().map(|info| info.bundle_sequence)
}

fn hash(content: &Content) -> String {
    let mut bytes = Vec::new();
    for (key, value) in content {
        bytes.extend_from_slice(key.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
    }
    fingerprint(&bytes)[..16].to_owned()
}
