//! Who is asked about, and that the question is asked and answered: namespaces that join by label or by a Mesh's selector, and no others;
//! also while the operator is rolled out anew, and after somebody has edited or deleted the webhook's configuration, or emptied the Secret
//! with its certificate.
//!
//! Seen to fail: pods are created all the time as far as admission goes; one that comes without a sidecar, or not at all, is counted.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bowline_proxy::contract::reason::Reason;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::context::{Context, Figures, pods};
use crate::meshed::admissions::{Admissions, Admitted, injected};
use crate::meshed::{self, App, Caller, MESH, SOON, app, operator, rotation};
use e2e::cluster::install::NAMESPACE;

/// Name of the configuration.
const CONFIGURATION: &str = "bowline-inject";
/// The Secret with the webhook's certificate.
const SECRET: &str = "bowline-webhook";
/// A Mesh that namespaces join by their labels.
const SELECTING: &str = "e2e-selecting";

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-admission", Some(MESH)).await?;
    let outside = cx.temp_ns("e2e-admission-outside", None).await?;
    injected(cx, &ns, MESH).await?;
    app::deploy(cx, &outside, &[App::new("plain")]).await?;
    let plain = cx.ready_pod(&outside, "app=plain", SOON).await?;
    let init = plain.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    ensure!(init.count() == 0, "a pod outside the mesh was given containers");
    let sent = by_selector(cx, &outside).await.context("a namespace that joins by a Mesh's selector")?;

    let admitted = rolled_out(cx, &ns).await.context("while the operator is rolled out anew")?;
    let edited = edited(cx, &ns).await.context("a webhook configuration that somebody edited")?;
    let deleted = deleted(cx, &ns).await.context("a webhook configuration that somebody deleted")?;
    let emptied = emptied_secret(cx, &ns).await.context("a Secret that somebody emptied")?;
    // Nobody who is there already has noticed.
    app::deploy(cx, &ns, &[App::new("newcomer")]).await?;
    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    Ok(admitted
        .figures(Figures::new())
        .with("sent", sent)
        .with("failed", 0)
        .with("container_restarts", restarts)
        .with("edited_repair_seconds", edited)
        .with("deleted_repair_seconds", deleted)
        .with("secret_repair_seconds", emptied))
}

/// Its pods get a sidecar of that Mesh, and talk by mutual TLS; a stranger is refused. Returns the requests that were sent.
async fn by_selector(cx: &Context, outside: &str) -> Result<u64> {
    meshed::delete(cx, SELECTING).await?;
    let (label, team) = ("e2e.bowline.dev/team", "selected");
    let selector = json!({ "matchLabels": { label: team } });
    let spec = json!({
        "trustDomain": rotation::trust_domain(SELECTING), "injection": { "namespaceSelector": selector },
    });
    meshed::apply(cx, SELECTING, spec).await?;
    meshed::ready(cx, SELECTING, SOON).await?;
    let ns = cx.labelled_ns(SELECTING, BTreeMap::from([(label.to_owned(), team.to_owned())])).await?;
    cx.eventually(SOON, "the namespace does not join", || injected(cx, &ns, SELECTING)).await?;
    app::deploy(cx, &ns, &[App::new("server"), App::new("client")]).await?;
    let client = Caller::of(cx, &ns, "client").await?;
    let load = ["load", "--url", "http://server/", "--rate", "50", "--seconds", "2", "--tcp", "server:9000"];
    let load: meshed::Load = serde_json::from_value(client.call(&load).await?)?;
    load.flawless(1)?;
    let labels = [("direction", "inbound"), ("peer", &rotation::spiffe(SELECTING, &ns, "client"))];
    let counted = meshed::scrape(cx, &ns, "app=server").await?.sum("bowline_http_requests_total", &labels);
    ensure!((counted - load.sent as f64).abs() < 0.1, "{counted} of {} requests came from {}", load.sent, labels[1].1);

    let stranger = Caller::of(cx, outside, "plain").await?;
    let report = stranger.call(&["get", &format!("http://server.{ns}/")]).await?;
    let reason = &report["headers"]["bowline-reason"];
    ensure!(report["status"] == 403 && reason == Reason::MtlsRequired.as_str(), "a stranger is answered {report}");
    cx.delete_ns(&ns).await?;
    meshed::delete(cx, SELECTING).await?;
    Ok(load.sent)
}

/// Replicas come and go, and no pod that is created meanwhile is refused. A replica that is told to end serves on for some seconds, in which the
/// API server learns of it: on a machine that stands still just then it does not, and so once more where the webhook was not reached.
async fn rolled_out(cx: &Context, ns: &str) -> Result<Admitted> {
    let mut admitted = roll_out(cx, ns).await?;
    if admitted.only_unreached() {
        admitted = roll_out(cx, ns).await?;
    }
    admitted.flawless()?;
    Ok(admitted)
}

async fn roll_out(cx: &Context, ns: &str) -> Result<Admitted> {
    let deployment = format!("deployment/{}", operator::NAME);
    let old: Vec<_> = operator::pods(cx).await?.iter().map(pods::name).collect();
    let admissions = Admissions::start(cx, ns, MESH);
    admissions.go_on(cx, 20).await?;
    cx.kubectl(&["rollout", "restart", &deployment, "-n", NAMESPACE]).await?;
    cx.rolled_out(NAMESPACE, &deployment, 2 * SOON).await?;
    let api = Api::<Pod>::namespaced(cx.client(), NAMESPACE);
    cx.eventually(SOON, "old replicas do not go", || async {
        let all = api.list(&ListParams::default().labels(operator::SELECTOR)).await?;
        let left: Vec<_> = all.iter().map(pods::name).filter(|name| old.contains(name)).collect();
        ensure!(left.is_empty(), "{} are there", left.join(", "));
        Ok(())
    })
    .await?;
    admissions.go_on(cx, 20).await?;
    Ok(admissions.stop())
}

/// It asks nobody, about nobody, and fails open; returns the seconds until it was as before.
async fn edited(cx: &Context, ns: &str) -> Result<f64> {
    let api = Api::<MutatingWebhookConfiguration>::all(cx.client());
    let wanted = api.get(CONFIGURATION).await?;
    let mut bad = wanted.clone();
    for webhook in bad.webhooks.iter_mut().flatten() {
        webhook.failure_policy = Some("Ignore".into());
        webhook.namespace_selector.get_or_insert_default().match_labels =
            Some([("e2e.bowline.dev/nobody".to_owned(), "true".to_owned())].into());
        if let Some(service) = &mut webhook.client_config.service {
            service.name = "nobody".into();
        }
    }
    let start = Instant::now();
    api.replace(CONFIGURATION, &PostParams::default(), &bad).await?;
    as_before(cx, &wanted, ns, start).await
}

async fn deleted(cx: &Context, ns: &str) -> Result<f64> {
    let api = Api::<MutatingWebhookConfiguration>::all(cx.client());
    let wanted = api.get(CONFIGURATION).await?;
    let start = Instant::now();
    api.delete(CONFIGURATION, &DeleteParams::default()).await?;
    as_before(cx, &wanted, ns, start).await
}

/// Waits until the configuration is what it was, and pods of the namespace are given a sidecar; returns the seconds since `start`.
async fn as_before(cx: &Context, wanted: &MutatingWebhookConfiguration, ns: &str, start: Instant) -> Result<f64> {
    let api = Api::<MutatingWebhookConfiguration>::all(cx.client());
    cx.eventually(SOON, "the configuration is not put back", || async {
        let now = api.get(CONFIGURATION).await?;
        ensure!(now.webhooks == wanted.webhooks, "it is {}", serde_json::to_string(&now.webhooks)?);
        Ok(())
    })
    .await?;
    let seconds = tenth(start);
    // The API server takes a moment to ask as it is told.
    cx.eventually(SOON, "pods are given no sidecar", || injected(cx, ns, MESH)).await?;
    Ok(seconds)
}

/// The certificate is there again, and all the time the webhook answers with one that the API server trusts.
async fn emptied_secret(cx: &Context, ns: &str) -> Result<f64> {
    let api = Api::<Secret>::namespaced(cx.client(), NAMESPACE);
    let keys = |secret: Secret| secret.data.unwrap_or_default().into_keys().collect::<Vec<_>>();
    let before = keys(api.get(SECRET).await?);
    ensure!(!before.is_empty(), "Secret {SECRET} is empty already");
    let admissions = Admissions::start(cx, ns, MESH);
    admissions.go_on(cx, 20).await?;
    let start = Instant::now();
    api.patch(SECRET, &PatchParams::default(), &Patch::Merge(json!({ "data": null }))).await?;
    cx.eventually(SOON, "the Secret stays empty", || async {
        let now = keys(api.get(SECRET).await?);
        ensure!(now == before, "its keys are {now:?} instead of {before:?}");
        Ok(())
    })
    .await?;
    let seconds = tenth(start);
    // Replicas that have another certificate now serve it by then.
    admissions.go_on(cx, 100).await?;
    admissions.stop().flawless()?;
    Ok(seconds)
}

fn tenth(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 10.0).round() / 10.0
}
