//! Pods come and go under load: what is in flight finishes, the proxy outlives the application, and no request fails.
//!
//! Seen to fail: a proxy that ends with its SIGTERM, before the application has, breaks the slow request and lets nobody say farewell; one
//! that is sent new requests while it drains shows in the load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::context::{Context, Figures};
use crate::meshed::{self, App, Caller, MESH, SOON, app, spiffe};

/// Pods at most that are deleted with an answer to give.
const SLOW_ANSWERS: u32 = 3;

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-drain", Some(MESH)).await?;
    // As applications should: it serves on for a moment after SIGTERM, until nobody is sent to it any more.
    let linger = json!({ "args": ["serve", "--linger", "12"] });
    let grace = json!({ "terminationGracePeriodSeconds": 40 });
    let server = App::new("server").replicas(2).container(linger).spec(grace.clone());
    app::deploy(cx, &ns, &[server, App::new("client"), App::new("witness"), leaver().spec(grace)]).await?;
    let client = Caller::of(cx, &ns, "client").await?;
    client.steady_load(&["--url", "http://server/", "--rate", "100", "--fresh-percent", "30"], 0).await?;

    in_flight(cx, &ns, &client).await.context("a request in flight while its pod goes")?;
    farewell(cx, &ns).await.context("an application that calls others while it ends")?;
    let start = Instant::now();
    cx.kubectl(&["rollout", "restart", "deployment/server", "-n", &ns]).await?;
    cx.rolled_out(&ns, "deployment/server", Duration::from_secs(120)).await?;
    let seconds = start.elapsed().as_secs();
    cx.eventually(SOON, "old pods do not go", || async {
        let params = ListParams::default().labels("app=server");
        let all = Api::<Pod>::namespaced(cx.client(), &ns).list(&params).await?.items.len();
        ensure!(all == 2, "{all} pods are there");
        Ok(())
    })
    .await?;
    let load = client.stop_load().await?;
    load.flawless(0)?;
    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    Ok(load.figures(Figures::new()).with("restart_seconds", seconds).with("container_restarts", restarts))
}

/// A slow answer of a pod that is deleted meanwhile arrives whole, for the application lingers for longer than it takes; once more where it
/// was there before the pod was told to go, because the machine stood still.
async fn in_flight(cx: &Context, ns: &str, client: &Caller<'_>) -> Result<()> {
    for _ in 0..SLOW_ANSWERS {
        let (deleted, answered) = slow_answer(cx, ns, client).await?;
        if answered > deleted {
            return Ok(());
        }
    }
    bail!("{SLOW_ANSWERS} times the answer was there before the pod was told to go: this proves nothing")
}

/// Deletes a pod that has a slow answer to give; when it was deleted, and when the answer was there.
async fn slow_answer(cx: &Context, ns: &str, client: &Caller<'_>) -> Result<(Instant, Instant)> {
    let server = Caller::of(cx, ns, "server").await?;
    let url = format!("http://{}:8080/hook/slow?wait=6000", server.ip);
    let answer = async {
        let report = client.call(&["get", &url, "--timeout", "60"]).await?;
        ensure!(report["status"] == 200, "{report}");
        anyhow::Ok(Instant::now())
    };
    let delete = async {
        called(cx, &server, &json!({ "slow": 1 })).await?;
        Api::<Pod>::namespaced(cx.client(), ns).delete(&server.pod, &DeleteParams::default()).await?;
        anyhow::Ok(Instant::now())
    };
    let (answered, deleted) = tokio::join!(answer, delete);
    Ok((deleted?, answered?))
}

/// Says something to `witness` before it is told to end, in its preStop hook, and after SIGTERM; the last one tells that the answer came.
fn leaver() -> App {
    let url = |name: &str| format!("http://witness/hook/{name}");
    let farewells = json!(["serve", "--linger", "2", "--farewell", url("farewell"), "--farewell", url("answered")]);
    let pre_stop = json!({ "exec": { "command": ["/test-app", "get", url("pre-stop")] } });
    App::new("leaver").container(json!({ "args": farewells, "lifecycle": { "preStop": pre_stop } }))
}

/// The sidecar serves until the application has ended: new connections out of the pod work up to then, by the pod's own identity.
async fn farewell(cx: &Context, ns: &str) -> Result<()> {
    let witness = Caller::of(cx, ns, "witness").await?;
    let leaver = Caller::of(cx, ns, "leaver").await?;
    called(cx, &witness, &json!({})).await?;
    Api::<Pod>::namespaced(cx.client(), ns).delete(&leaver.pod, &DeleteParams::default()).await?;
    called(cx, &witness, &json!({ "pre-stop": 1, "farewell": 1, "answered": 1 })).await?;
    let labels = [("direction", "inbound"), ("peer", &spiffe(ns, "leaver"))];
    let counted = meshed::scrape_one(cx, witness.ip).await?.sum("bowline_http_requests_total", &labels);
    ensure!(counted >= 3.0, "the witness counted {counted} requests of {}", labels[1].1);
    Ok(())
}

/// Waits until the application of a pod has had exactly these calls of its hooks.
async fn called(cx: &Context, pod: &Caller<'_>, wanted: &Value) -> Result<()> {
    cx.eventually(Duration::from_secs(30), &format!("{} was not called as expected", pod.pod), || async {
        let told = pod.call(&["ctl", "hooks"]).await?;
        ensure!(told["hooks"] == *wanted, "{} instead of {wanted}", told["hooks"]);
        Ok(())
    })
    .await
}
