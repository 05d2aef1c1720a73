//! Proxies and operator tell Prometheus what happened, no more and no less.
//!
//! Seen to fail: requests are counted against what was sent, exactly, on both sides.

use anyhow::{Context as _, Result, ensure};
use bowline_proxy::contract::bootstrap::ports;

use crate::context::{Context, Figures, pods};
use crate::meshed::{self, App, Caller, MESH, app, operator, spiffe};
use e2e::demo::metrics::Metrics;

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-metrics", Some(MESH)).await?;
    app::deploy(cx, &ns, &[App::new("server"), App::new("client")]).await?;
    let client = Caller::of(cx, &ns, "client").await?;
    let server = Caller::of(cx, &ns, "server").await?;
    // About 50 good ones, as many as the machine came to send in that second; 3 bad ones.
    let load = ["load", "--url", "http://server/", "--rate", "50", "--seconds", "1"];
    let load: meshed::Load = serde_json::from_value(client.call(&load).await?)?;
    load.flawless(0)?;
    let sent = load.sent as f64;
    for _ in 0..3 {
        client.call(&["get", "http://server/status/503"]).await?;
    }
    client.call(&["tcp", "server:9000", "--half-close"]).await?;

    let (at_server, at_client) = (meshed::scrape_one(cx, server.ip).await?, meshed::scrape_one(cx, client.ip).await?);
    requests(&at_server, "inbound", &spiffe(&ns, "client"), sent)?;
    requests(&at_client, "outbound", &spiffe(&ns, "server"), sent)?;
    let service = format!("{ns}/server");
    let by_service = at_client.sum("bowline_http_requests_total", &[("service", &service)]);
    ensure!((by_service - sent - 3.0).abs() < 0.1, "{by_service} requests to the service {service}");
    tcp(&at_server, &spiffe(&ns, "client"))?;
    state(&at_server)?;

    page(cx, &server).await?;
    // From outside it is a port like any other, and under Strict refused.
    let outside = cx.http_get(server.ip, ports::ADMIN, "/config").await;
    ensure!(outside.is_err() || outside.is_ok_and(|a| a.status() == 403), "the admin port is open to the pod network");
    server.get(&format!("http://127.0.0.1:{}/ready", ports::ADMIN)).await.context("/ready from inside the pod")?;
    server.get(&format!("http://127.0.0.1:{}/live", ports::ADMIN)).await.context("/live from inside the pod")?;
    operators(cx).await?;
    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    Ok(load.figures(Figures::new()).with("container_restarts", restarts).with("series", at_server.samples.len()))
}

fn requests(metrics: &Metrics, direction: &str, peer: &str, sent: f64) -> Result<()> {
    let count = |class: &str| {
        metrics.sum("bowline_http_requests_total", &[("direction", direction), ("peer", peer), ("status_class", class)])
    };
    ensure!((count("2xx") - sent).abs() < 0.1, "{direction}: {} successes of {sent} with {peer}", count("2xx"));
    ensure!((count("5xx") - 3.0).abs() < 0.1, "{direction}: {} failures of 3 with {peer}", count("5xx"));
    let labels = [("direction", direction), ("peer", peer)];
    let timed = metrics.sum("bowline_http_request_duration_seconds_count", &labels);
    ensure!((timed - sent - 3.0).abs() < 0.1, "{direction}: {timed} durations");
    let spent = metrics.sum("bowline_http_request_duration_seconds_sum", &labels);
    ensure!(spent > 0.0 && spent < timed, "{direction}: {timed} requests took {spent} s");
    let endless = [("direction", direction), ("peer", peer), ("le", "+Inf")];
    let bucket = metrics.sum("bowline_http_request_duration_seconds_bucket", &endless);
    ensure!((bucket - timed).abs() < 0.1, "{direction}: the last bucket has {bucket} of {timed}");
    Ok(())
}

fn tcp(metrics: &Metrics, peer: &str) -> Result<()> {
    let labels = [("direction", "inbound"), ("peer", peer), ("tls", "true")];
    let connections = metrics.sum("bowline_tcp_connections_total", &labels);
    ensure!(connections >= 1.0, "{connections} TCP connections of {peer}");
    ensure!(metrics.sum("bowline_tcp_bytes_total", &[("direction", "inbound")]) >= 4.0, "no bytes were counted");
    Ok(())
}

fn state(metrics: &Metrics) -> Result<()> {
    let now = jiff::Timestamp::now().as_second() as f64;
    let left = metrics.sum("bowline_leaf_not_after_seconds", &[]) - now;
    ensure!(left > 3600.0 && left <= 86_400.0 + 60.0, "the leaf lives for {left} s more");
    for one in ["bowline_control_connected", "bowline_serving"] {
        let value = metrics.sum(one, &[]);
        ensure!((value - 1.0).abs() < 0.1, "{one} is {value}");
    }
    ensure!(metrics.sum("bowline_bundle_sequence", &[]) >= 1.0, "no bundle sequence");
    ensure!(metrics.sum("process_resident_memory_bytes", &[]) > 1e6, "no resident memory");
    Ok(())
}

/// What Prometheus needs to read the page, and to find it.
async fn page(cx: &Context, server: &Caller<'_>) -> Result<()> {
    let page = cx.http_get(server.ip, ports::METRICS, "/metrics").await?;
    let kind = page.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    ensure!(
        kind.starts_with("application/openmetrics-text") || kind.starts_with("text/plain"),
        "content type {kind:?}"
    );
    let text = String::from_utf8_lossy(page.body()).into_owned();
    ensure!(text.contains("# HELP bowline_http_requests") && text.contains("# TYPE bowline_http_requests"), "{text}");
    let pod = cx.pods(&server.namespace, "app=server").await?.into_iter().next().context("the server is gone")?;
    let annotations = pod.metadata.annotations.unwrap_or_default();
    let port = annotations.get("prometheus.io/port").map(String::as_str);
    ensure!(port == Some("15020"), "the pod's scrape annotations are {annotations:?}");
    Ok(())
}

async fn operators(cx: &Context) -> Result<()> {
    let mut leading = 0.0;
    let (mut reconciles, mut queued) = (0.0, 0.0);
    for pod in operator::pods(cx).await? {
        let metrics = cx.scrape(pods::ip(&pod)?, 8080).await?;
        reconciles += metrics.sum("controller_runtime_reconcile_total", &[]);
        leading += metrics.sum("leader_election_master_status", &[]);
        // Only who leads has had anything to queue.
        queued += metrics.sum("workqueue_adds_total", &[]);
    }
    ensure!(queued >= 1.0, "nothing was queued for reconciling");
    ensure!(reconciles >= 1.0, "no reconcile was counted");
    ensure!((leading - 1.0).abs() < 0.1, "{leading} replicas say that they lead");
    Ok(())
}
