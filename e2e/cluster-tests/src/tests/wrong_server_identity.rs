//! A server that proves an identity of the mesh, but not the one of the endpoint that was called, is sent no request.
//!
//! The servers here are pods outside the mesh that the control plane takes for meshed ones, with leaves that were signed with the
//! authority's own key. Seen to fail: the one whose leaf is right is answered by, so it is the identity that the other is refused for.

use anyhow::{Context as _, Result, ensure};
use bowline_crds::names::INJECTED_ANNOTATION;
use bowline_proxy::contract::{
    bootstrap::{GATE, SLOTS, ports},
    reason::Reason,
};
use serde_json::{Value, json};

use crate::context::{Context, Figures, pods};
use crate::meshed::app::{CONTAINER, merge, pod};
use crate::meshed::{self, App, Caller, MESH, SOON, app, forgery, rotation, spiffe};

/// Requests to the wrong server.
const TRIES: u32 = 10;

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    rotation::steady(cx, MESH, SOON).await?;
    let ns = cx.temp_ns("e2e-identity", Some(MESH)).await?;
    let outside = cx.temp_ns("e2e-identity-outside", None).await?;
    app::deploy(cx, &ns, &[App::new("client"), App::new("other")]).await?;
    server(cx, &outside, "honest", &spiffe(&outside, "honest")).await?;
    server(cx, &outside, "impostor", &spiffe(&ns, "other")).await?;
    let client = Caller::of(cx, &ns, "client").await?;

    let url = format!("http://honest.{outside}/");
    let answer = cx.eventually(SOON, "a server with the right identity is not reached", || client.get(&url)).await?;
    ensure!(answer["body"] == "impostor\n", "somebody else answered: {answer}");

    let url = format!("http://impostor.{outside}/");
    let told = async |reasons: &[Reason]| {
        let report = client.run(&["get", &url, "--timeout", "30"]).await?;
        ensure!(report["status"] != 200, "a server with a wrong identity was asked: {report}");
        let reason = report["headers"]["bowline-reason"].as_str().unwrap_or_default();
        ensure!(reasons.iter().any(|r| r.as_str() == reason), "it was refused with another reason: {report}");
        Ok(())
    };
    let refused = || told(&[Reason::WrongIdentity]);
    cx.eventually(SOON, "a server with a wrong identity is not refused for that", refused).await?;
    for _ in 0..TRIES {
        // On a machine that stands still a connection may not come so far; what the servers saw is judged below.
        told(&[Reason::WrongIdentity, Reason::ConnectFailed, Reason::TlsFailed]).await?;
    }
    let (impostor, honest) = (said(cx, &outside, "impostor").await?, said(cx, &outside, "honest").await?);
    ensure!(honest.contains("was sent a request"), "the honest server saw nothing: {honest}");
    ensure!(impostor.contains("shook hands"), "nobody called the impostor: it proves nothing ({impostor})");
    ensure!(!impostor.contains("was sent a request"), "the impostor was sent a request: {impostor}");
    // To the control plane these are meshed pods that never answer.
    cx.delete_ns(&outside).await?;
    meshed::ready(cx, MESH, SOON).await?;
    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    Ok(Figures::new().with("container_restarts", restarts).with("refused", TRIES + 1))
}

/// A pod and a Service called `name`: to the control plane a meshed pod of that service account, on whose mesh port somebody proves
/// `identity`.
async fn server(cx: &Context, namespace: &str, name: &str, identity: &str) -> Result<()> {
    let leaf = forgery::leaf(cx, MESH, identity).await?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
        "stringData": { "chain.pem": leaf.chain, "key.pem": leaf.key },
    });
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    });
    let items = json!([secret, account, pretender(name), service]);
    cx.apply_yaml(namespace, &json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()).await?;
    cx.ready_pod(namespace, &format!("app={name}"), SOON).await.map(drop)
}

/// It has the annotation and the containers by which the control plane knows a meshed pod.
fn pretender(name: &str) -> Value {
    let poses = json!({
        "args": ["impostor", "--chain", "/leaf/chain.pem", "--key", "/leaf/key.pem"],
        "readinessProbe": { "httpGet": null, "tcpSocket": { "port": ports::MESH } },
        "volumeMounts": [{ "name": "leaf", "mountPath": "/leaf" }],
    });
    let mut pretender = pod(name, poses, json!({ "volumes": [{ "name": "leaf", "secret": { "secretName": name } }] }));
    let image = pretender["spec"]["containers"][0]["image"].clone();
    let empty = |container: &str| json!({ "name": container, "image": image, "imagePullPolicy": "IfNotPresent", "args": ["exit"] });
    let init: Vec<_> = SLOTS.into_iter().chain([GATE]).map(empty).collect();
    merge(&mut pretender["spec"], json!({ "initContainers": init }));
    merge(&mut pretender["metadata"], json!({ "annotations": { INJECTED_ANNOTATION: MESH } }));
    pretender
}

async fn said(cx: &Context, namespace: &str, app: &str) -> Result<String> {
    let pod = cx.ready_pod(namespace, &format!("app={app}"), SOON).await?;
    cx.logs(namespace, &pods::name(&pod), CONTAINER).await.context("its log")
}
