//! What should not be is refused at admission, or said in a condition and an event with the remedy, and repaired where that is safe;
//! nobody else suffers.
//!
//! Seen to fail: an admitted spec is found by name afterwards; a repair that made a new root changes the fingerprint in the status.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use bowline_crds::Mesh;
use bowline_crds::conditions::reasons;
use bowline_crds::names::MESH_LABEL;
use bowline_proxy::contract::bootstrap::{TRUST_CONFIG_MAP_PREFIX, TRUST_KEY_BUNDLE, TRUST_KEY_MESH};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::context::{Context, Figures};
use crate::meshed::admissions::injected;
use crate::meshed::new_events::NewEvents;
use crate::meshed::{self, App, Caller, MESH, SOON, app, authority, rotation};
use e2e::cluster::install::NAMESPACE;

const BAD: &str = "e2e-bad";
const RIVAL: &str = "e2e-rival";
const NEWER: &str = "e2e-rival-newer";

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    meshed::delete(cx, RIVAL).await?;
    refusals(cx).await?;

    let labels = [(MESH_LABEL.to_owned(), MESH.to_owned()), ("e2e.bowline.dev/team".into(), "both".into())];
    let ns = cx.labelled_ns("e2e-bad-mesh", BTreeMap::from(labels)).await?;
    app::deploy(cx, &ns, &[App::new("server"), App::new("client")]).await?;
    let client = Caller::of(cx, &ns, "client").await?;
    client.steady_load(&["--url", "http://server/", "--rate", "50", "--streams", "2"], 2).await?;
    let rivals = two_claim_one(cx, &ns).await.context("two Meshes that claim one namespace");
    meshed::delete(cx, NEWER).await?;
    meshed::delete(cx, RIVAL).await?;
    rivals?;
    meshed::ready(cx, MESH, SOON).await.context("after the rival has gone")?;
    unknown_mesh(cx).await.context("a namespace that names a Mesh that does not exist")?;
    let secret = emptied_secret(cx).await.context("a Secret that someone emptied")?;
    let map = edited_config_map(cx, &ns).await.context("a ConfigMap that someone edited")?;
    // New members and old still understand each other.
    app::deploy(cx, &ns, &[App::new("newcomer")]).await?;
    Caller::of(cx, &ns, "newcomer").await?.get("http://server/").await?;
    let answer = client.call(&["get", "http://newcomer/", "--until", "60"]).await?;
    ensure!(answer["status"] == 200, "an old pod does not reach a new one: {answer}");
    let load = client.stop_load().await?;
    load.flawless(2).context("load during all of it")?;
    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    let figures = load.figures(Figures::new()).with("container_restarts", restarts);
    Ok(figures.with("secret_repair_seconds", secret).with("config_map_repair_seconds", map))
}

/// Specs that the API server refuses; the message names field and remedy.
async fn refusals(cx: &Context) -> Result<()> {
    let expression = |e: Value| json!({ "injection": { "namespaceSelector": { "matchExpressions": [e] } } });
    let cases: [(Value, &[&str]); 14] = [
        (json!({ "certificates": { "leafLifetime": "0s" } }), &["leafLifetime"]),
        (json!({ "certificates": { "rootLifetime": "0h" } }), &["rootLifetime"]),
        (json!({ "certificates": { "leafLifetime": "soon" } }), &["leafLifetime"]),
        (json!({ "certificates": { "leafLifetime": "90000h" } }), &["leafLifetime", "issuerLifetime"]),
        (json!({ "trustDomain": "a/b" }), &["trustDomain"]),
        (json!({ "mtls": { "mode": "Loose" } }), &["mtls.mode", "Strict", "Permissive"]),
        (json!({ "proxy": { "logLevel": 7 } }), &["proxy.logLevel"]),
        (json!({ "injection": { "skipInboundPorts": [70000] } }), &["skipInboundPorts"]),
        (expression(json!({ "key": "a", "operator": "in", "values": ["b"] })), &["namespaceSelector", "In, NotIn"]),
        (
            expression(json!({ "key": "a", "operator": "NotIn", "values": [] })),
            &["namespaceSelector", "must not be empty"],
        ),
        (expression(json!({ "key": "a b", "operator": "Exists" })), &["namespaceSelector", "must name labels"]),
        (json!({ "proxy": { "resources": { "limits": { "gpu": "1" } } } }), &["proxy.resources", "cpu, memory"]),
        (json!({ "proxy": { "resources": { "limits": { "cpu": "-1" } } } }), &["proxy.resources", "below zero"]),
        (
            json!({ "proxy": { "resources": { "requests": { "memory": "2Mi" }, "limits": { "memory": "1Mi" } } } }),
            &["proxy.resources.requests", "more than"],
        ),
    ];
    for (spec, words) in cases {
        refused(cx, &spec, words).await?;
    }
    refused(cx, &json!({ "trustDomian": "a.b" }), &["unknown field", "trustDomian"]).await?;
    refused(cx, &json!({ "mtls": { "moed": "Strict" } }), &["unknown field", "moed"]).await?;
    ensure!(Api::<Mesh>::all(cx.client()).get_opt(BAD).await?.is_none(), "a refused Mesh exists");
    let other = json!({ "spec": { "trustDomain": "other.test" } });
    let changed = Api::<Mesh>::all(cx.client()).patch(MESH, &PatchParams::default(), &Patch::Merge(other)).await;
    let error = changed.err().context("the trust domain of a living Mesh was changed")?.to_string();
    ensure!(error.contains("trustDomain"), "the refusal does not name the field: {error}");
    Ok(())
}

async fn refused(cx: &Context, spec: &Value, words: &[&str]) -> Result<()> {
    let mesh =
        json!({ "apiVersion": "bowline.dev/v1alpha1", "kind": "Mesh", "metadata": { "name": BAD }, "spec": spec });
    let Err(error) = cx.apply_yaml("default", &mesh.to_string()).await else {
        let _ = meshed::delete(cx, BAD).await;
        bail!("{spec} was admitted");
    };
    let message = format!("{error:#}");
    for word in words {
        ensure!(message.contains(word), "the refusal of {spec} does not speak of {word:?}: {message}");
    }
    Ok(())
}

/// A label wins over a selector, and an older Mesh over a newer one; who loses says so, and whoever was there first notices nothing.
async fn two_claim_one(cx: &Context, ns: &str) -> Result<()> {
    let label = ("e2e.bowline.dev/team", "both");
    let selecting = |name: &str| {
        let selector = json!({ "matchLabels": { label.0: label.1 } });
        json!({ "trustDomain": rotation::trust_domain(name), "injection": { "namespaceSelector": selector } })
    };
    let events = NewEvents::from_now(cx).await?;
    meshed::apply(cx, RIVAL, selecting(RIVAL)).await?;
    loses(cx, &events, RIVAL, ns, MESH).await.context("a selector against a label")?;
    let mesh = meshed::ready(cx, MESH, SOON).await?;
    ensure!(!conflicts(&mesh).any(|_| true), "who keeps the namespace complains: {:?}", meshed::conditions(&mesh));
    injected(cx, ns, MESH).await.context("a pod of the namespace that two claim")?;

    // Without a label the older one keeps what both select; of the same second, the first by name.
    let selected = cx.labelled_ns("e2e-bad-selected", BTreeMap::from([(label.0.into(), label.1.into())])).await?;
    let joins = || injected(cx, &selected, RIVAL);
    cx.eventually(SOON, "the namespace does not join the only Mesh that selects it", joins).await?;
    let events = NewEvents::from_now(cx).await?;
    meshed::delete(cx, NEWER).await?;
    meshed::apply(cx, NEWER, selecting(NEWER)).await?;
    loses(cx, &events, NEWER, &selected, RIVAL).await.context("a selector against an older one")?;
    injected(cx, &selected, RIVAL).await.context("a pod of the namespace that two select")?;
    cx.delete_ns(&selected).await?;
    meshed::delete(cx, NEWER).await
}

/// Waits until a Mesh says by condition and event that it does not have the namespace, who has it, and what to do.
async fn loses(cx: &Context, events: &NewEvents<'_>, loser: &str, ns: &str, winner: &str) -> Result<()> {
    let message = cx
        .eventually(SOON, &format!("Mesh {loser} does not say that it lost {ns}"), || async {
            let mesh = Api::<Mesh>::all(cx.client()).get(loser).await?;
            let said = conflicts(&mesh).map(|c| c.message.clone()).find(|message| message.contains(ns));
            said.with_context(|| format!("conditions: {:?}", meshed::conditions(&mesh)))
        })
        .await?;
    for word in [winner, MESH_LABEL] {
        ensure!(message.contains(word), "the message of {loser} lacks {word:?}: {message}");
    }
    events.event(loser, reasons::NAMESPACE_CONFLICT, &[ns, winner]).await
}

/// Conditions that tell of a namespace which another Mesh claims too.
fn conflicts(mesh: &Mesh) -> impl Iterator<Item = &Condition> {
    let conditions = mesh.status.iter().flat_map(|s| &s.conditions);
    conditions.filter(|c| c.reason == reasons::NAMESPACE_CONFLICT && c.status == "True")
}

/// Nothing starts half-meshed there: a pod is refused with the remedy, and an event says why.
async fn unknown_mesh(cx: &Context) -> Result<()> {
    let unknown = "e2e-no-such-mesh";
    let events = NewEvents::from_now(cx).await?;
    let ns = cx.temp_ns("e2e-bad-unknown", Some(unknown)).await?;
    events.event(&ns, reasons::UNKNOWN_MESH, &[unknown, "create it", MESH_LABEL]).await?;
    let pod = app::pod("early", json!({}), json!({ "serviceAccountName": "default" }));
    let Err(error) = cx.apply_yaml(&ns, &pod.to_string()).await else { bail!("a pod was admitted") };
    let message = format!("{error:#}");
    for word in [ns.as_str(), unknown, "create it, or correct the label"] {
        ensure!(message.contains(word), "the refusal does not speak of {word:?}: {message}");
    }
    Ok(())
}

fn fingerprint(mesh: &Mesh) -> Option<String> {
    Some(mesh.status.as_ref()?.certificates.as_ref()?.roots.first()?.fingerprint.clone())
}

/// The CA's state comes back as it was: the same root. Returns the seconds that it took.
async fn emptied_secret(cx: &Context) -> Result<f64> {
    let before = fingerprint(&meshed::ready(cx, MESH, SOON).await?).context("no root in the status")?;
    let api = Api::<Secret>::namespaced(cx.client(), NAMESPACE);
    let key = format!("{MESH}.json");
    let held = api.get("bowline-ca").await?.data.and_then(|data| data.get(&key).cloned());
    let held = held.with_context(|| format!("Secret bowline-ca has no key {key}"))?;
    let (events, start) = (NewEvents::from_now(cx).await?, Instant::now());
    api.patch("bowline-ca", &PatchParams::default(), &Patch::Merge(json!({ "data": null }))).await?;
    cx.eventually(SOON, "the CA's state is not put back", || async {
        let data = api.get("bowline-ca").await?.data.unwrap_or_default();
        ensure!(data.get(&key) == Some(&held), "the Secret holds {:?}", data.keys().collect::<Vec<_>>());
        Ok(())
    })
    .await?;
    let seconds = start.elapsed().as_secs_f64();
    let after = fingerprint(&meshed::ready(cx, MESH, SOON).await?).context("no root in the status")?;
    ensure!(before == after, "the repair made a new root: {before} became {after}");
    let words = [NAMESPACE, "bowline-ca", "put back", "keep others from writing"];
    events.event(MESH, reasons::CA_STATE_RESTORED, &words).await?;
    Ok((seconds * 10.0).round() / 10.0)
}

/// The bundle comes back as it was, also when the whole ConfigMap is gone. Returns the seconds that it took.
async fn edited_config_map(cx: &Context, ns: &str) -> Result<f64> {
    let api = Api::<ConfigMap>::namespaced(cx.client(), ns);
    let name = format!("{TRUST_CONFIG_MAP_PREFIX}{MESH}");
    let wanted = api.get(&name).await?.data;
    let repaired = || async {
        let data = api.get(&name).await?.data;
        ensure!(data == wanted, "it holds the keys {:?}", data.map(|d| d.into_keys().collect::<Vec<_>>()));
        Ok(())
    };
    let (events, start) = (NewEvents::from_now(cx).await?, Instant::now());
    let edit = json!({ "data": { TRUST_KEY_BUNDLE: "nonsense", TRUST_KEY_MESH: null, "more": "of it" } });
    api.patch(&name, &PatchParams::default(), &Patch::Merge(edit)).await?;
    cx.eventually(SOON, "the ConfigMap is not repaired", repaired).await?;
    let seconds = start.elapsed().as_secs_f64();
    events.event(MESH, reasons::CONFIG_MAP_REPAIRED, &[ns, &name, "put back"]).await?;
    api.delete(&name, &Default::default()).await?;
    cx.eventually(SOON, "the deleted ConfigMap does not come back", repaired).await?;
    authority::trust(cx, ns, MESH).await?;
    Ok((seconds * 10.0).round() / 10.0)
}
