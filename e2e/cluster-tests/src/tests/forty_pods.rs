//! Forty meshed pods start on two nodes, and each is reached.
//!
//! Seen to fail: a pod that does not come up keeps the Deployment from rolling out; one without endpoint is missed among the answers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use serde_json::json;

use crate::context::{Context, Figures, pods};
use crate::meshed::{self, App, Caller, MESH, SOON, app, operator};

const PODS: u32 = 40;
/// Requests that are answered at least.
const REQUESTS: u64 = 1000;

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let nodes = Api::<Node>::all(cx.client()).list(&Default::default()).await?.items.len();
    ensure!(nodes >= 2, "this wants two nodes: `cargo e2e up --nodes 2`");
    let ns = cx.temp_ns("e2e-forty", Some(MESH)).await?;
    app::deploy(cx, &ns, &[App::new("client")]).await?;
    let spread = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "many" } },
    }]);
    let many = App::new("many").replicas(PODS).spec(json!({ "topologySpreadConstraints": spread }));
    let start = Instant::now();
    cx.apply_yaml(&ns, &many.manifests().to_string()).await?;
    cx.rolled_out(&ns, "deployment/many", Duration::from_secs(180)).await?;
    let seconds = start.elapsed().as_secs_f64();

    let all = cx.pods(&ns, "app=many").await?;
    let restarts: i32 = all.iter().flat_map(pods::restarts).map(|(_, n)| n).sum();
    ensure!(all.len() == PODS as usize && all.iter().all(pods::is_ready), "{} pods", all.len());
    ensure!(restarts == 0, "{restarts} restarts while forty pods started");
    let on: BTreeSet<_> = all.iter().filter_map(|p| p.spec.as_ref()?.node_name.clone()).collect();
    ensure!(on.len() >= 2, "all pods are on {on:?}");

    let client = Caller::of(cx, &ns, "client").await?;
    client.call(&["get", "http://many/", "--until", "60"]).await?;
    client.steady_load(&["--url", "http://many/", "--rate", "200", "--fresh-percent", "10"], 0).await?;
    let broken = cx.eventually(SOON, "not every pod is reached", || all_reached(cx, &client, &all)).await?;
    let load = client.stop_load().await?;
    load.flawless(0)?;
    for pod in operator::pods(cx).await? {
        ensure!(pods::is_ready(&pod), "{} is not ready", pods::name(&pod));
    }
    Ok(load
        .figures(Figures::new())
        .with("seconds", (seconds * 10.0).round() / 10.0)
        .with("pods", PODS)
        .with("nodes", nodes)
        .with("control_streams_broken", broken)
        .with("container_restarts", restarts))
}

/// Fails unless each of the pods has counted a request, and the client has had its answers; returns how many control streams broke.
async fn all_reached(cx: &Context, client: &Caller<'_>, all: &[Pod]) -> Result<f64> {
    let load = client.load().await?;
    ensure!(load.succeeded >= REQUESTS, "{} of {REQUESTS} requests were answered: {}", load.succeeded, load.errors);
    let (mut missed, mut broken) = (vec![], 0.0);
    for pod in all {
        let metrics = meshed::scrape_one(cx, pods::ip(pod)?).await?;
        if metrics.sum("bowline_http_requests_total", &[("direction", "inbound")]) < 1.0 {
            missed.push(pods::name(pod));
        }
        broken += metrics.sum("bowline_control_failures_total", &[]);
    }
    ensure!(missed.is_empty(), "{} requests reached none of {}", load.succeeded, missed.join(", "));
    Ok(broken)
}
