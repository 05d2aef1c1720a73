//! Pods come and go under load: what is in flight finishes, the proxy outlives the application, and no request fails.
//!
//! Seen to fail: a proxy that ends with its SIGTERM, before the application has, breaks the slow request; one that is sent new
//! requests while it drains shows in the load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::context::{Context, Figures};
use crate::meshed::{self, App, Caller, MESH, app};

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-drain", Some(MESH)).await?;
    // As applications should: it serves on for a moment after SIGTERM, until nobody is sent to it any more.
    let linger = json!({ "args": ["serve", "--linger", "5"] });
    let grace = json!({ "terminationGracePeriodSeconds": 30 });
    let server = App::new("server").replicas(2).container(linger).spec(grace);
    app::deploy(cx, &ns, &[server, App::new("client")]).await?;
    let client = Caller::of(cx, &ns, "client").await?;
    client.start_load(&["--url", "http://server/", "--rate", "100", "--fresh-percent", "30"]).await?;

    in_flight(cx, &ns, &client).await.context("a request in flight while its pod goes")?;
    let start = Instant::now();
    cx.kubectl(&["rollout", "restart", "deployment/server", "-n", &ns]).await?;
    cx.rolled_out(&ns, "deployment/server", Duration::from_secs(120)).await?;
    let seconds = start.elapsed().as_secs();
    cx.eventually(Duration::from_secs(60), "old pods do not go", || async {
        let params = ListParams::default().labels("app=server");
        let all = Api::<Pod>::namespaced(cx.client(), &ns).list(&params).await?.items.len();
        ensure!(all == 2, "{all} pods are there");
        Ok(())
    })
    .await?;
    let load = client.stop_load().await?;
    load.flawless(0)?;
    Ok(load.figures(Figures::new()).with("restart_seconds", seconds))
}

/// A slow answer of a pod that is deleted meanwhile arrives whole.
async fn in_flight(cx: &Context, ns: &str, client: &Caller<'_>) -> Result<()> {
    let server = Caller::of(cx, ns, "server").await?;
    let url = format!("http://{}:8080/delay/4000", server.ip);
    let delete = async {
        // The request must be there first: the slow answer leaves it four seconds.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Api::<Pod>::namespaced(cx.client(), ns).delete(&server.pod, &DeleteParams::default()).await
    };
    let (answer, deleted) = tokio::join!(client.get(&url), delete);
    deleted?;
    answer.map(drop)
}
