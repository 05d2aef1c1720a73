//! The `MutatingWebhookConfiguration`: member namespaces only, one webhook for those that carry the label and one for each Mesh with a
//! selector. It exists while there are Meshes.

use std::{collections::BTreeSet, sync::Arc};

use bowline_crds::{
    Mesh,
    names::{INJECT_LABEL, MESH_LABEL},
};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference, WebhookClientConfig,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
};
use kube::ResourceExt;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    ca::fingerprint::fingerprint,
    cluster::{membership::Registry, mesh::in_force::selector_in_force},
    runtime::config::{OPERATOR_NAME, WEBHOOK_SERVICE},
};

/// Name of the object.
pub const NAME: &str = "bowline-inject";
/// Path of the webhook.
pub const PATH: &str = "/inject";
/// Seconds that the API server waits for an answer.
const TIMEOUT_SECONDS: i32 = 10;

/// Whether a Mesh is being deleted.
#[must_use]
pub fn is_one_leaving(registry: &Registry) -> bool {
    registry.all().iter().any(|m| m.metadata.deletion_timestamp.is_some())
}

/// The object; pure.
#[must_use]
pub fn build(
    meshes: &[Arc<Mesh>],
    exempt: &BTreeSet<String>,
    namespace: &str,
    ca_bundle: &str,
) -> Option<MutatingWebhookConfiguration> {
    if meshes.is_empty() {
        return None;
    }
    let client = client_config(namespace, ca_bundle);
    let selectors = meshes.iter().filter_map(|m| by_selector(m, exempt));
    let webhooks = [by_label(exempt)].into_iter().chain(selectors);
    Some(MutatingWebhookConfiguration {
        metadata: ObjectMeta {
            name: Some(NAME.into()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), OPERATOR_NAME.to_owned())].into()),
            ..ObjectMeta::default()
        },
        webhooks: Some(webhooks.map(|(name, selector)| webhook(name, selector, client.clone())).collect()),
    })
}

/// The webhooks that a Mesh needs: name and namespaces.
#[must_use]
pub fn selectors(mesh: &Mesh, exempt: &BTreeSet<String>) -> Vec<(String, LabelSelector)> {
    [by_label(exempt)].into_iter().chain(by_selector(mesh, exempt)).collect()
}

fn by_label(exempt: &BTreeSet<String>) -> (String, LabelSelector) {
    let expressions = vec![requirement(MESH_LABEL, "Exists", &[]), not_exempt(exempt)];
    let selector = LabelSelector { match_expressions: Some(expressions), match_labels: None };
    ("label.inject.bowline.dev".to_owned(), selector)
}

/// One that the API server would refuse must not get into what all Meshes share.
fn by_selector(mesh: &Mesh, exempt: &BTreeSet<String>) -> Option<(String, LabelSelector)> {
    let (selector, _) = selector_in_force(mesh)?;
    let mut selector = selector.clone();
    let expressions = selector.match_expressions.get_or_insert_default();
    // Those with the label are asked about already.
    expressions.push(requirement(MESH_LABEL, "DoesNotExist", &[]));
    expressions.push(not_exempt(exempt));
    Some((format!("{}.mesh.inject.bowline.dev", mesh.name_any()), selector))
}

fn webhook(name: String, namespaces: LabelSelector, client_config: WebhookClientConfig) -> MutatingWebhook {
    let strings = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect());
    MutatingWebhook {
        name,
        client_config,
        namespace_selector: Some(namespaces),
        object_selector: Some(LabelSelector {
            match_expressions: Some(vec![requirement(INJECT_LABEL, "NotIn", &["false"])]),
            match_labels: None,
        }),
        rules: Some(vec![RuleWithOperations {
            api_groups: strings(&[""]),
            api_versions: strings(&["v1"]),
            operations: strings(&["CREATE"]),
            resources: strings(&["pods"]),
            scope: Some("Namespaced".into()),
        }]),
        failure_policy: Some("Fail".into()),
        match_policy: Some("Equivalent".into()),
        reinvocation_policy: Some("IfNeeded".into()),
        side_effects: "None".into(),
        timeout_seconds: Some(TIMEOUT_SECONDS),
        admission_review_versions: vec!["v1".into()],
        match_conditions: None,
    }
}

fn client_config(namespace: &str, ca_bundle: &str) -> WebhookClientConfig {
    WebhookClientConfig {
        ca_bundle: Some(ByteString(ca_bundle.as_bytes().to_vec())),
        service: Some(ServiceReference {
            name: WEBHOOK_SERVICE.into(),
            namespace: namespace.into(),
            path: Some(PATH.into()),
            port: Some(443),
        }),
        url: None,
    }
}

fn not_exempt(exempt: &BTreeSet<String>) -> LabelSelectorRequirement {
    let names: Vec<&str> = exempt.iter().map(String::as_str).collect();
    requirement("kubernetes.io/metadata.name", "NotIn", &names)
}

fn requirement(key: &str, operator: &str, values: &[&str]) -> LabelSelectorRequirement {
    let values = values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
    LabelSelectorRequirement {
        key: key.into(),
        operator: operator.into(),
        values: (!values.is_empty()).then_some(values),
    }
}

/// Whether what was seen is what is wanted.
#[must_use]
pub fn is_current(seen: &MutatingWebhookConfiguration, wanted: &MutatingWebhookConfiguration) -> bool {
    let labelled = wanted.labels().iter().all(|(k, v)| seen.labels().get(k) == Some(v));
    // Every field that the API server would fill in is set by us, so they can be compared as they are.
    labelled && seen.webhooks == wanted.webhooks
}

/// The CAs that the configuration trusts, PEM.
#[must_use]
pub fn bundle(seen: &MutatingWebhookConfiguration) -> String {
    let bundle = seen.webhooks.iter().flatten().find_map(|w| w.client_config.ca_bundle.clone());
    bundle.and_then(|b| String::from_utf8(b.0).ok()).unwrap_or_default()
}

/// Ids of the CAs that the configuration trusts.
#[must_use]
pub fn published(seen: &MutatingWebhookConfiguration) -> Vec<String> {
    let mut bundles = seen.webhooks.iter().flatten().filter_map(|w| w.client_config.ca_bundle.as_ref());
    let ids = |bundle: &ByteString| -> Vec<String> {
        let certificates = CertificateDer::pem_slice_iter(&bundle.0).filter_map(Result::ok);
        certificates.map(|der| fingerprint(&der)).collect()
    };
    let mut common = bundles.next().map(ids).unwrap_or_default();
    for bundle in bundles {
        let these = ids(bundle);
        common.retain(|id| these.contains(id));
    }
    common
}

#[cfg(test)]
mod tests;
