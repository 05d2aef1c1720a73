//! Every protocol through two sidecars: what the client reports, what the server saw, and by whose identity.
//!
//! Seen to fail: a protocol that is broken fails its own line; traffic that went around the mesh leaves the inbound counters
//! of the client's identity at rest, and plaintext that was let in shows as the peer `plaintext`.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::context::{Context, Figures};
use crate::meshed::caller::echoed;
use crate::meshed::{self, App, Caller, MESH, app, spiffe};
use e2e::demo::metrics::Metrics;

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-protocols", Some(MESH)).await?;
    app::deploy(cx, &ns, &[App::new("server").replicas(2), App::new("client")]).await?;
    let client = Caller::of(cx, &ns, "client").await?;

    let start = Instant::now();
    http(&client).await.context("HTTP/1.1")?;
    bodies(&client).await.context("bodies")?;
    upgrades(&client).await.context("upgrades and interim answers")?;
    http2(&client).await.context("HTTP/2")?;
    grpc(&client, "server:9090").await.context("gRPC")?;
    grpc(&client, "server:9091").await.context("gRPC on a port without a declared protocol")?;
    let stalls = tcp(&client).await.context("TCP")?;
    identities(cx, &ns).await?;

    let load = ["load", "--url", "http://server/", "--url", "http://server:8088/", "--rate", "100", "--seconds", "5"];
    let held = ["--streams", "4", "--tcp", "server:9000"];
    let load: meshed::Load = serde_json::from_value(client.call(&[&load[..], &held[..]].concat()).await?)?;
    load.flawless(5)?;
    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    let figures = load.figures(Figures::new()).with("container_restarts", restarts);
    Ok(figures.with("server_first_stall_ms", (stalls * 1000.0).round()).with("seconds", start.elapsed().as_secs()))
}

async fn http(client: &Caller<'_>) -> Result<()> {
    let mut served = BTreeSet::new();
    for port in [80, 8088] {
        for _ in 0..10 {
            let url = format!("http://server:{port}/a/b?c=d%20e");
            let report = client.call(&["get", &url, "-H", "x-key: value", "-X", "PUT", "--body", "26"]).await?;
            ensure!(report["status"] == 200 && report["version"] == "HTTP/1.1", "{report}");
            let saw = echoed(&report)?;
            ensure!(saw["method"] == "PUT" && saw["path"] == "/a/b?c=d%20e", "{saw}");
            ensure!(saw["headers"]["x-key"] == "value" && saw["version"] == "HTTP/1.1", "{saw}");
            let host = if port == 80 { "server".to_owned() } else { format!("server:{port}") };
            ensure!(saw["headers"]["host"].as_str().is_some_and(|h| h.starts_with(&host)), "Host is changed: {saw}");
            served.insert(saw["pod"].as_str().unwrap_or_default().to_owned());
        }
    }
    ensure!(served.len() == 2, "twenty requests reached only {served:?} of two pods");
    for status in [204, 304, 404, 418, 500, 503] {
        let report = client.call(&["get", &format!("http://server/status/{status}")]).await?;
        ensure!(report["status"] == status, "{status} became {report}");
        ensure!(
            report["headers"]["bowline-reason"].is_null(),
            "an answer of the application carries a reason: {report}"
        );
    }
    let head = client.call(&["get", "http://server/bytes/1000", "-X", "HEAD"]).await?;
    ensure!(head["headers"]["content-length"] == "1000" && head["bytes"] == 0, "HEAD: {head}");
    client.get("http://server/delay/1500").await.map(drop)
}

async fn bodies(client: &Caller<'_>) -> Result<()> {
    const LARGE: u64 = 20_000_000;
    let down = client.call(&["get", &format!("http://server/bytes/{LARGE}"), "--timeout", "40"]).await?;
    ensure!(down["bytes"] == LARGE, "{down}");
    for flags in [vec![], vec!["--chunked"]] {
        let body = LARGE.to_string();
        let args = ["get", "http://server/upload", "--body", &body, "--timeout", "40"];
        let report = client.call(&args.into_iter().chain(flags.iter().copied()).collect::<Vec<_>>()).await?;
        let saw = echoed(&report)?;
        ensure!(saw["bytes"] == LARGE && saw["sha256"] == down["sha256"], "{flags:?}: {saw}");
    }
    let chunks = client.get("http://server/chunked/1000").await?;
    ensure!(chunks["lines"] == 1000, "{chunks}");
    // Events arrive one by one, not when some buffer is full: 5 of them, 300 ms apart, of an answer that never ends.
    let events = || async {
        let events = client.call(&["get", "http://server/stream/300", "--lines", "5", "--timeout", "60"]).await?;
        ensure!(events["lines"] == 5, "{events}");
        Ok(events["seconds"].as_f64().unwrap_or(f64::MAX))
    };
    below(5.0, events).await.context("five events").map(drop)
}

/// The seconds that something took, if one of three attempts took fewer than `limit`: what the mesh holds up is held up each time, what a
/// machine does that stands still now and then is not.
async fn below<F: Future<Output = Result<f64>>>(limit: f64, mut attempt: impl FnMut() -> F) -> Result<f64> {
    let mut took = vec![];
    while took.len() < 3 {
        let seconds = attempt().await?;
        if seconds < limit {
            return Ok(seconds);
        }
        took.push(seconds);
    }
    bail!("it took {took:?} s instead of less than {limit} s")
}

async fn upgrades(client: &Caller<'_>) -> Result<()> {
    for url in ["http://server/ws", "http://server:8088/ws"] {
        let chat = client.call(&["ws", url, "--messages", "50", "--size", "20000"]).await?;
        ensure!(chat["echoed"] == 50 && chat["closed"] == true, "{url}: {chat}");
    }
    let upload = client.call(&["expect", "http://server/upload", "--body", "100000"]).await?;
    ensure!(upload["interim"] == 100 && upload["status"] == 200, "{upload}");
    let refused = client.call(&["expect", "http://server/refuse"]).await?;
    ensure!(refused["interim"].is_null() && refused["status"] == 417, "the body was asked for: {refused}");
    Ok(())
}

async fn http2(client: &Caller<'_>) -> Result<()> {
    // 8088 declares nothing: the preface is detected.
    for url in ["http://server:81/x", "http://server:8088/x"] {
        let saw = echoed(&client.call(&["get", url, "--h2", "-H", "x-key: value", "--body", "1000"]).await?)?;
        ensure!(saw["version"] == "HTTP/2.0" && saw["headers"]["x-key"] == "value", "{url}: {saw}");
    }
    let down = client.call(&["get", "http://server:81/bytes/3000000", "--h2", "--timeout", "30"]).await?;
    ensure!(down["bytes"] == 3_000_000, "{down}");
    Ok(())
}

async fn grpc(client: &Caller<'_>, target: &str) -> Result<()> {
    let call = async |method: &str| client.call(&["grpc", target, method, "-H", "x-key: value"]).await;
    let unary = call("unary").await?;
    ensure!(unary["code"] == 0 && unary["text"] == "hello" && unary["headers"]["x-key"] == "value", "{unary}");
    ensure!(call("stream").await?["sequences"] == json!([0, 1, 2, 3, 4]), "server streaming");
    ensure!(call("collect").await?["sequences"] == json!([5]), "client streaming");
    ensure!(call("chat").await?["sequences"] == json!([0, 1, 2, 3, 4]), "bidirectional streaming");
    let failed = call("fail").await?;
    ensure!(failed["code"] == 9 && failed["message"] == "as asked", "an error became {failed}");
    ensure!(failed["trailers"]["x-key"] == "value", "trailers are lost: {failed}");
    ensure!(call("health").await?["health"] == "SERVING", "health checking");
    Ok(())
}

/// Returns the longest time in seconds that a server-first connection took until its first echo.
async fn tcp(client: &Caller<'_>) -> Result<f64> {
    let echo = client.call(&["tcp", "server:9000", "--half-close", "--bytes", "2000000"]).await?;
    ensure!(echo["bye"] == "bye 2000004", "half-close: {echo}");
    let mut slowest: f64 = 0.0;
    for address in ["server:3306", "server:5555"] {
        let talk = || async {
            let talk = client.call(&["tcp", address, "--banner", "--half-close"]).await?;
            ensure!(talk["banner"].as_str().is_some_and(|b| b.starts_with("banner server-")), "{address}: {talk}");
            ensure!(talk["bye"] == "bye 4", "{address}: {talk}");
            Ok(talk["first_byte_seconds"].as_f64().unwrap_or(f64::MAX))
        };
        let seconds = below(2.0, talk).await.with_context(|| format!("a server-first protocol at {address}"))?;
        slowest = slowest.max(seconds);
    }
    Ok(slowest)
}

/// Nothing but the client's proven identity reached the servers, and the client knew whom it talked to.
async fn identities(cx: &Context, ns: &str) -> Result<()> {
    let client = spiffe(ns, "client");
    let server = spiffe(ns, "server");
    let at_server = meshed::scrape(cx, ns, "app=server").await?;
    let http = at_server.sum("bowline_http_requests_total", &[("direction", "inbound"), ("peer", &client)]);
    ensure!(http >= 40.0, "the servers counted {http} requests of {client}: {}", peers(&at_server));
    let tcp = at_server.sum("bowline_tcp_connections_total", &[("direction", "inbound"), ("peer", &client)]);
    ensure!(tcp >= 3.0, "the servers counted {tcp} connections of {client}: {}", peers(&at_server));
    for metric in ["bowline_http_requests_total", "bowline_tcp_connections_total"] {
        let plain = at_server.sum(metric, &[("direction", "inbound"), ("peer", "plaintext")]);
        ensure!(plain == 0.0, "{plain} in plaintext: {}", peers(&at_server));
    }
    let at_client = meshed::scrape(cx, ns, "app=client").await?;
    let out = at_client.sum("bowline_http_requests_total", &[("direction", "outbound"), ("peer", &server)]);
    ensure!(out >= 40.0, "the client counted {out} requests to {server}: {}", peers(&at_client));
    Ok(())
}

fn peers(metrics: &Metrics) -> Value {
    let counts = metrics.samples.iter().filter(|s| s.labels.contains_key("peer") && s.name.ends_with("_total"));
    counts.map(|s| json!([s.name, s.labels, s.value])).collect()
}
