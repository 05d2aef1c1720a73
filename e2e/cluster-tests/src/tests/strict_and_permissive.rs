//! Strict refuses plaintext and foreign identities, Permissive admits plaintext, and changing between them disturbs nobody.
//!
//! Seen to fail: if Strict let plaintext in, the outsider's requests would be answered 200, and those on a connection that it kept across the
//! switch; if the switch restarted or dropped
//! anything, the load that members make meanwhile would count it. A handshake with a good identity shows that the refused ones were
//! refused for their identity.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bowline_crds::mesh::MtlsMode;
use bowline_proxy::contract::reason::Reason;

use crate::context::{Context, Figures, pods};
use crate::meshed::authority;
use crate::meshed::handshake::{Credentials, knock};
use crate::meshed::{self, App, Caller, MESH, SOON, app, spiffe};

/// Seconds after which something was left hanging: a machine may stand still for some of them.
const HANGS: &str = "30";

/// Runs the test; leaves the Mesh Strict, whatever happens.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-strict", Some(MESH)).await?;
    let outside = cx.temp_ns("e2e-strict-outside", None).await?;
    app::deploy(cx, &ns, &[App::new("server").replicas(2), App::new("client")]).await?;
    app::deploy(cx, &outside, &[App::new("outsider")]).await?;
    let result = modes(cx, &ns, &outside).await;
    meshed::set_mode(cx, MtlsMode::Strict).await?;
    result
}

async fn modes(cx: &Context, ns: &str, outside: &str) -> Result<Figures> {
    let client = Caller::of(cx, ns, "client").await?;
    let outsider = Caller::of(cx, outside, "outsider").await?;
    let load = ["--url", "http://server/", "--rate", "50", "--streams", "4", "--tcp", "server:9000"];
    client.steady_load(&load, 5).await?;

    refused(cx, &outsider, ns).await.context("under Strict")?;
    identities(cx, ns).await?;

    let start = Instant::now();
    meshed::set_mode(cx, MtlsMode::Permissive).await?;
    let url = format!("http://server.{ns}/");
    cx.eventually(SOON, "plaintext is not admitted", || outsider.get(&url)).await.context("under Permissive")?;
    let switched = start.elapsed().as_secs_f64();
    admitted(cx, &outsider, ns).await.context("under Permissive")?;
    still_mutual(cx, &client, ns).await.context("members under Permissive")?;

    // On connections that are kept, so that some are older than the switch.
    outsider.steady_load(&["--url", &url, "--rate", "20", "--fresh-percent", "0"], 0).await?;

    meshed::set_mode(cx, MtlsMode::Strict).await?;
    cx.eventually(SOON, "plaintext is still admitted after the switch to Strict", || async {
        refused(cx, &outsider, ns).await
    })
    .await?;
    served_no_longer(cx, &outsider).await?;

    let load = client.stop_load().await?;
    load.flawless(5).context("members while the mode changed")?;
    let restarts = meshed::no_restarts(cx, ns, "").await?;
    Ok(load
        .figures(Figures::new())
        .with("container_restarts", restarts)
        .with("switch_seconds", (switched * 10.0).round() / 10.0))
}

/// Every protocol of an outsider is turned away, and counted.
async fn refused(cx: &Context, outsider: &Caller<'_>, ns: &str) -> Result<()> {
    let before = refusals(cx, ns).await?;
    for port in [80, 8088] {
        let report = outsider.run(&["get", &format!("http://server.{ns}:{port}/"), "--timeout", HANGS]).await?;
        let told = report["status"] == 403 && report["headers"]["bowline-reason"] == "mtls-required";
        ensure!(told || report["error"].is_string(), "plaintext HTTP was answered: {report}");
        ensure!(report["error"] != "timeout", "plaintext HTTP was left hanging instead of refused");
    }
    for (port, flag) in [(9000, "--half-close"), (3306, "--banner"), (5555, "--banner")] {
        let report = outsider.run(&["tcp", &format!("server.{ns}:{port}"), flag, "--timeout", HANGS]).await?;
        let error =
            report["error"].as_str().with_context(|| format!("plaintext TCP to {port} was served: {report}"))?;
        ensure!(error != "timeout", "plaintext TCP to {port} was left hanging instead of refused");
    }
    let call = outsider.run(&["grpc", &format!("server.{ns}:9090"), "unary", "--timeout", HANGS]).await?;
    ensure!(call["code"] != 0, "plaintext gRPC was answered: {call}");
    let counted = refusals(cx, ns).await? - before;
    ensure!(counted >= 5.0, "only {counted} refusals were counted with the reason mtls-required");
    Ok(())
}

/// The load of an outsider that was served gets nothing any more, on no connection.
async fn served_no_longer(cx: &Context, outsider: &Caller<'_>) -> Result<()> {
    cx.eventually(SOON, "connections that are older than the switch are still served", || async {
        let before = outsider.load().await?;
        let later = cx
            .eventually(SOON, "the outsider asks no more", || async {
                let load = outsider.load().await?;
                ensure!(load.sent >= before.sent + 20, "{} requests after {}", load.sent, before.sent);
                Ok(load)
            })
            .await?;
        ensure!(later.succeeded == before.succeeded, "{} answers became {}", before.succeeded, later.succeeded);
        Ok(())
    })
    .await?;
    outsider.stop_load().await.map(drop)
}

async fn refusals(cx: &Context, ns: &str) -> Result<f64> {
    let labels = [("direction", "inbound"), ("reason", "mtls-required")];
    Ok(meshed::scrape(cx, ns, "app=server").await?.sum("bowline_refused_total", &labels))
}

/// Members prove themselves to each other although they would not have to: what they ask counts for their identity, nothing as plaintext.
async fn still_mutual(cx: &Context, client: &Caller<'_>, ns: &str) -> Result<()> {
    let peer = spiffe(ns, "client");
    let counts = async |peer: &str| {
        let (metrics, labels) =
            (meshed::scrape(cx, ns, "app=server").await?, [("direction", "inbound"), ("peer", peer)]);
        let sum = |name| metrics.sum(name, &labels);
        anyhow::Ok((sum("bowline_http_requests_total"), sum("bowline_tcp_connections_total")))
    };
    let (ours, plain) = (counts(&peer).await?, counts("plaintext").await?);
    ensure!(plain.0 > 0.0 && plain.1 > 0.0, "the outsider's plaintext was not counted: {plain:?}");
    for _ in 0..3 {
        client.call(&["tcp", "server:5555", "--banner", "--half-close"]).await?;
    }
    let grow = || async {
        let now = counts(&peer).await?;
        ensure!(now.0 >= ours.0 + 50.0 && now.1 >= ours.1 + 3.0, "{ours:?} became {now:?}");
        Ok(())
    };
    cx.eventually(SOON, &format!("requests and connections of {peer} do not grow"), grow).await?;
    let now = counts("plaintext").await?;
    ensure!(now == plain, "members talk plaintext to each other: {plain:?} became {now:?}");
    Ok(())
}

async fn admitted(cx: &Context, outsider: &Caller<'_>, ns: &str) -> Result<()> {
    // Every replica has its policy by now or a moment later.
    let all = || async {
        for _ in 0..6 {
            outsider.get(&format!("http://server.{ns}:8088/")).await?;
            outsider.call(&["tcp", &format!("server.{ns}:9000"), "--half-close"]).await?;
        }
        let talk = outsider.call(&["tcp", &format!("server.{ns}:5555"), "--banner"]).await?;
        ensure!(talk["banner"].as_str().is_some_and(|b| b.starts_with("banner server-")), "{talk}");
        let call = outsider.call(&["grpc", &format!("server.{ns}:9090"), "unary"]).await?;
        ensure!(call["code"] == 0, "{call}");
        Ok(())
    };
    cx.eventually(SOON, "plaintext is not admitted by all", all).await?;
    let metrics = meshed::scrape(cx, ns, "app=server").await?;
    let plain = metrics.sum("bowline_http_requests_total", &[("direction", "inbound"), ("peer", "plaintext")]);
    ensure!(plain >= 6.0, "only {plain} requests were counted as plaintext");
    Ok(())
}

/// The mesh port wants a leaf of the trust domain: none, a self-made one and one of another mesh are turned away.
async fn identities(cx: &Context, ns: &str) -> Result<()> {
    let trust = authority::trust(cx, ns, MESH).await?;
    let server = cx.ready_pod(ns, "app=server", SOON).await?;
    let ip = pods::ip(&server)?;
    let client = cx.ready_pod(ns, "app=client", SOON).await?;

    let good = authority::leaf(cx, &client, &trust, &spiffe(ns, "client")).await?;
    let status = knock(cx, ip, &trust.roots, Some(good), "/").await.context("a good identity is turned away")?;
    ensure!(status == 200, "a good identity is answered {status}");

    let labels = [("direction", "inbound"), ("reason", Reason::TlsFailed.as_str())];
    let turned_away = async || anyhow::Ok(meshed::scrape_one(cx, ip).await?.sum("bowline_refused_total", &labels));
    let before = turned_away().await?;
    if let Ok(status) = knock(cx, ip, &trust.roots, None, "/").await {
        bail!("a caller without a certificate is answered {status}");
    }
    let made_up = Credentials::self_signed(&spiffe(ns, "client"))?;
    if let Ok(status) = knock(cx, ip, &trust.roots, Some(made_up), "/").await {
        bail!("a self-made certificate is answered {status}");
    }
    let foreign = foreign_leaf(cx).await?;
    if let Ok(status) = knock(cx, ip, &trust.roots, Some(foreign), "/").await {
        bail!("a leaf of another mesh is answered {status}");
    }
    cx.eventually(SOON, "the three are not counted as refused", || async {
        let counted = turned_away().await? - before;
        // Members' handshakes may break off, too, on a machine that stands still.
        ensure!(counted >= 3.0, "{counted} refusals with the reason {}", labels[1].1);
        Ok(())
    })
    .await
}

/// A genuine leaf of another Mesh of the same control plane.
async fn foreign_leaf(cx: &Context) -> Result<Credentials> {
    let mesh = "e2e-foreign";
    meshed::delete(cx, mesh).await?;
    let spec = serde_json::json!({ "trustDomain": "foreign.test" });
    meshed::apply(cx, mesh, spec).await?;
    meshed::ready(cx, mesh, SOON).await?;
    let ns = cx.temp_ns("e2e-strict-foreign", Some(mesh)).await?;
    let made = async {
        let what = "the foreign mesh publishes no trust";
        let trust = cx.eventually(SOON, what, || authority::trust(cx, &ns, mesh)).await?;
        app::deploy(cx, &ns, &[App::new("stranger")]).await?;
        let pod = cx.ready_pod(&ns, "app=stranger", Duration::from_secs(30)).await?;
        authority::leaf(cx, &pod, &trust, &format!("spiffe://foreign.test/ns/{ns}/sa/stranger")).await
    };
    let made = made.await;
    cx.delete_ns(&ns).await?;
    meshed::delete(cx, mesh).await?;
    made
}
