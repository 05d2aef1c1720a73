//! cert-manager in the cluster: its real controller, without the webhook, and a certificate authority that it keeps.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::authority;
use super::shared::SOON;
use crate::context::Context;
use e2e::cluster::kubectl::kubectl_command;
use e2e::images::cert_manager::CERT_MANAGER;
use e2e::programs::cert_manager;

/// Name of the namespace, ServiceAccount, ClusterRoleBinding and Deployment; ClusterIssuers keep their Secrets there.
const NAME: &str = "e2e-cert-manager";
/// The ClusterIssuer that signs with the authority, and the Certificate and Secret that this is.
pub const ISSUER: &str = "e2e-authority";
/// The ClusterIssuer that lets the authority sign itself.
const SELF_SIGNED: &str = "e2e-self-signed";
/// Condition of a Certificate that cert-manager is to issue anew.
const ISSUING: &str = "Issuing";

/// Label of the definitions that this made: with any other goes what somebody else has defined by it.
const MADE: &str = "e2e.bowline.dev/made-by=rotation_sources";

/// Installs it, whatever an earlier test left, and makes the authority; returns its root's fingerprint.
///
/// # Errors
/// When somebody else has installed it already, and when it does not start or does not sign.
pub async fn install(cx: &Context) -> Result<String> {
    remove(cx).await?;
    let crds = cert_manager::cert_manager_crds(cx.env()).await?;
    let get = ["get", "--ignore-not-found", "--output", "name", "--filename"];
    let others = kubectl_command(cx.env())?.args(get).args([&crds]).output().await?;
    ensure!(
        others.is_empty(),
        "cert-manager is on this cluster already, made by somebody else, and would be replaced: take the cluster down (`cargo e2e down`), \
         or remove {}",
        others.split_whitespace().collect::<Vec<_>>().join(" ")
    );
    // Not YAML, which it prints without anything between two documents.
    let label = ["label", "--local", "--output", "json", MADE, "--filename"];
    let labelled = kubectl_command(cx.env())?.args(label).args([&crds]).output().await?;
    // They are larger than the annotation in which an ordinary `apply` would keep them.
    let apply = ["apply", "--server-side", "--force-conflicts", "--filename", "-"];
    kubectl_command(cx.env())?.args(apply).input(labelled).output().await.context("cert-manager's definitions")?;
    let namespace = cx.temp_ns(NAME, None).await?;
    cx.apply_yaml(&namespace, &controller().to_string()).await?;
    cx.rolled_out(&namespace, &format!("deployment/{NAME}"), SOON).await.context("cert-manager does not start")?;
    let objects = authority();
    cx.eventually(SOON, "the definitions are not served", || cx.apply_yaml(&namespace, &objects)).await?;
    ready(cx, "clusterissuer", ISSUER, &namespace).await?;
    let secret = Api::<Secret>::namespaced(cx.client(), &namespace).get(ISSUER).await?;
    let pem = secret.data.and_then(|mut data| data.remove("tls.crt")).context("the authority has no certificate")?;
    Ok(authority::fingerprint(&CertificateDer::from_pem_slice(&pem.0)?))
}

/// Takes what [`install`] made out of the cluster, with everything that it was asked for.
///
/// # Errors
/// When something stays.
pub async fn remove(cx: &Context) -> Result<()> {
    cx.kubectl(&["delete", "customresourcedefinitions", "--selector", MADE]).await?;
    cx.kubectl(&["delete", "--ignore-not-found", "clusterrolebinding", NAME]).await?;
    cx.delete_ns(NAME).await
}

/// Waits until an object of cert-manager's says that it is Ready.
///
/// # Errors
/// When it does not in a minute.
pub async fn ready(cx: &Context, kind: &str, name: &str, namespace: &str) -> Result<()> {
    cx.eventually(SOON, &format!("{kind} {name} does not become Ready"), || async {
        let object = get(cx, kind, name, namespace).await?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        ensure!(ready, "conditions: {conditions:?}");
        Ok(())
    })
    .await
}

/// Has a Certificate issued anew, as `cmctl renew` does.
///
/// # Errors
/// When there is none, or the API server refuses.
pub async fn renew(cx: &Context, name: &str, namespace: &str) -> Result<()> {
    let certificate = get(cx, "certificate", name, namespace).await?;
    let patch = json!({ "status": { "conditions": asked_to_issue(&certificate) } }).to_string();
    let args = ["patch", "certificate", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", &patch];
    cx.kubectl(&args).await.map(drop)
}

/// The conditions of a Certificate, and the one that asks for another issue.
fn asked_to_issue(certificate: &Value) -> Vec<Value> {
    let mut conditions = certificate["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|c| c["type"] != ISSUING);
    conditions.push(json!({
        "type": ISSUING, "status": "True", "reason": "ManuallyTriggered",
        "message": "Certificate re-issuance manually triggered",
        "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "observedGeneration": certificate["metadata"]["generation"],
    }));
    conditions
}

async fn get(cx: &Context, kind: &str, name: &str, namespace: &str) -> Result<Value> {
    let said = cx.kubectl(&["get", kind, name, "--namespace", namespace, "--output", "json"]).await?;
    Ok(serde_json::from_str(&said)?)
}

fn controller() -> Value {
    let labels = json!({ "app": NAME });
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": NAME } });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": NAME },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "name": NAME, "namespace": NAME }],
    });
    let container = json!({
        "name": "controller", "image": CERT_MANAGER, "imagePullPolicy": "IfNotPresent",
        "args": [format!("--cluster-resource-namespace={NAME}")],
    });
    let spec = json!({ "serviceAccountName": NAME, "enableServiceLinks": false, "containers": [container] });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": NAME },
        "spec": {
            "replicas": 1, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": spec },
        },
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [account, binding, deployment] })
}

/// Something that signs itself, an authority that it signs, and an issuer that signs with that.
fn authority() -> String {
    let object = |kind: &str, name: &str, spec: Value| json!({ "apiVersion": "cert-manager.io/v1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let root = json!({
        "isCA": true, "commonName": "A root of cert-manager's", "secretName": ISSUER, "duration": "87600h",
        "privateKey": { "algorithm": "ECDSA", "size": 256 },
        "issuerRef": { "name": SELF_SIGNED, "kind": "ClusterIssuer", "group": "cert-manager.io" },
    });
    let items = [
        object("ClusterIssuer", SELF_SIGNED, json!({ "selfSigned": {} })),
        object("Certificate", ISSUER, root),
        object("ClusterIssuer", ISSUER, json!({ "ca": { "secretName": ISSUER } })),
    ];
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wish_to_issue_replaces_an_earlier_one() {
        let conditions = json!([
            { "type": "Ready", "status": "True" }, { "type": ISSUING, "status": "False" },
        ]);
        let certificate = json!({ "metadata": { "generation": 3 }, "status": { "conditions": conditions } });
        let asked = asked_to_issue(&certificate);
        assert_eq!(asked.len(), 2);
        assert_eq!((&asked[1]["status"], &asked[1]["observedGeneration"]), (&"True".into(), &3.into()));
    }
}
