//! A first user's way: `kubectl apply -k config/default`, one Mesh with `spec: {}`, a labelled namespace, a pod.
//!
//! Seen to fail: without a working webhook the pod comes up with one container; without RBAC the Mesh never gets Ready.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bowline_crds::Mesh;
use bowline_proxy::contract::bootstrap::{GATE, SLOTS, TRUST_CONFIG_MAP_PREFIX, TRUST_KEY_BUNDLE, TRUST_KEY_MESH};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use crate::context::{Context, Figures, pods};
use crate::meshed::{self, App, MESH, SOON, app, operator};
use e2e::cluster::install::{self, NAMESPACE};

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    let start = Instant::now();
    install::install(cx.env()).await?;
    let installed = start.elapsed().as_secs_f64();
    let first = applied(cx).await?;
    let again = applied(cx).await?;
    ensure!(first == again, "applying the manifests again changes something: {first:?} became {again:?}");

    let deployment = Api::<Deployment>::namespaced(cx.client(), NAMESPACE).get(operator::NAME).await?;
    let ready = deployment.status.and_then(|s| s.ready_replicas);
    ensure!(ready == Some(operator::REPLICAS), "{ready:?} replicas are ready");
    Api::<PodDisruptionBudget>::namespaced(cx.client(), NAMESPACE).get(operator::NAME).await?;

    let start = Instant::now();
    let sample = cx.env().root.join("config/samples/mesh.yaml");
    cx.kubectl(&["apply", "-f", &sample.to_string_lossy()]).await?;
    cx.kubectl(&["wait", "--for=condition=Ready", &format!("mesh/{MESH}"), "--timeout=60s"]).await?;
    let mesh_ready = start.elapsed().as_secs_f64();
    status(&meshed::ready(cx, MESH, SOON).await?)?;
    operator::leader(cx).await?;
    webhook(cx).await?;

    let start = Instant::now();
    let ns = cx.temp_ns("e2e-install", Some(MESH)).await?;
    app::deploy(cx, &ns, &[App::new("web")]).await?;
    let rolled_out = start.elapsed().as_secs_f64();
    trust(cx, &ns).await?;
    sidecars(&cx.ready_pod(&ns, "app=web", SOON).await?)?;
    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    let tenth = |seconds: f64| (seconds * 10.0).round() / 10.0;
    Ok(Figures::new()
        .with("container_restarts", restarts)
        .with("install_seconds", tenth(installed))
        .with("mesh_ready_seconds", tenth(mesh_ready))
        .with("first_pod_seconds", tenth(rolled_out)))
}

/// Applies the manifests; returns the generation of each object, or its version where it has none.
async fn applied(cx: &Context) -> Result<BTreeMap<String, String>> {
    let manifests = cx.env().root.join("config/default");
    let list = cx.kubectl(&["apply", "-k", &manifests.to_string_lossy(), "-o", "json"]).await?;
    let list: Value = serde_json::from_str(&list)?;
    let objects = list["items"].as_array().context("kubectl printed no list")?;
    ensure!(objects.len() > 5, "only {} objects", objects.len());
    let versions = objects.iter().map(|o| {
        let metadata = &o["metadata"];
        let version = metadata.get("generation").unwrap_or(&metadata["resourceVersion"]);
        (format!("{} {}", o["kind"], metadata["name"]), version.to_string())
    });
    Ok(versions.collect())
}

/// What kstatus and people read.
fn status(mesh: &Mesh) -> Result<()> {
    let status = mesh.status.clone().context("the Mesh has no status")?;
    ensure!(status.observed_generation == mesh.metadata.generation, "status is of another generation");
    for (kind, wanted) in [("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False")] {
        // kstatus reads an absent Reconciling or Stalled as False.
        let is = meshed::condition(mesh, kind).map_or_else(|| "False".into(), |(is, _)| is);
        ensure!(is == wanted, "{kind} is {is}: {:?}", meshed::conditions(mesh));
    }
    let generations = status.conditions.iter().all(|c| c.observed_generation == mesh.metadata.generation);
    ensure!(generations, "a condition is of another generation: {:?}", status.conditions);
    let certificates = status.certificates.context("no certificates in the status")?;
    ensure!(certificates.roots.len() == 1 && certificates.issuers.len() == 1, "{certificates:?}");
    ensure!(certificates.root_not_after.is_some(), "the root's expiry is not told");
    Ok(())
}

/// Only opted-in namespaces ever meet the webhook.
async fn webhook(cx: &Context) -> Result<()> {
    let configuration = Api::<MutatingWebhookConfiguration>::all(cx.client()).get("bowline-inject").await?;
    let webhooks = configuration.webhooks.unwrap_or_default();
    ensure!(!webhooks.is_empty(), "no webhook is configured");
    for webhook in webhooks {
        let selects = webhook.namespace_selector.clone().unwrap_or_default();
        let narrow = selects.match_labels.is_some_and(|l| !l.is_empty())
            || selects.match_expressions.as_ref().is_some_and(|e| !e.is_empty());
        ensure!(narrow, "webhook {} sees every namespace", webhook.name);
        ensure!(webhook.failure_policy.as_deref() == Some("Fail"), "webhook {} fails open", webhook.name);
        ensure!(webhook.client_config.ca_bundle.is_some_and(|b| !b.0.is_empty()), "webhook {} has no CA", webhook.name);
    }
    Ok(())
}

async fn trust(cx: &Context, namespace: &str) -> Result<()> {
    let name = format!("{TRUST_CONFIG_MAP_PREFIX}{MESH}");
    let map = Api::<ConfigMap>::namespaced(cx.client(), namespace).get(&name).await?;
    let data = map.data.clone().unwrap_or_default();
    for key in [TRUST_KEY_BUNDLE, TRUST_KEY_MESH] {
        ensure!(data.get(key).is_some_and(|v| !v.is_empty()), "ConfigMap {} lacks {key}", map.name_any());
    }
    Ok(())
}

/// Two slots and the gate stand first; the application's containers are as they were.
fn sidecars(pod: &Pod) -> Result<()> {
    let spec = pod.spec.clone().unwrap_or_default();
    let init = spec.init_containers.unwrap_or_default();
    let names: Vec<_> = init.iter().map(|c| c.name.as_str()).collect();
    ensure!(names == [SLOTS[0], SLOTS[1], GATE], "init containers are {names:?}");
    for slot in &init[..2] {
        ensure!(slot.restart_policy.as_deref() == Some("Always"), "{} is no native sidecar", slot.name);
        ensure!(slot.startup_probe.is_none() && slot.readiness_probe.is_none(), "{} has a probe", slot.name);
    }
    ensure!(spec.containers.len() == 1, "{} containers", spec.containers.len());
    let restarts: Vec<_> = pods::restarts(pod).into_iter().filter(|(_, n)| *n > 0).collect();
    ensure!(restarts.is_empty(), "restarted on the way up: {restarts:?}");
    Ok(())
}
