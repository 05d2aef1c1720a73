//! The operator is killed and stays away: members go on talking, also over fresh connections, to all that they had reached before; a
//! destination that was never asked for gets a clear reason; pods outside the mesh keep starting, members are refused with a word why.
//! Members whose leaves are short-lived talk up to the leaf's end, and then say that it is over. Then the operator comes back.
//!
//! Seen to fail: a proxy that asks the control plane for each connection fails the fresh ones in the load; one that stays silent
//! about an unknown destination runs into the timeout.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bowline_crds::names::INJECT_LABEL;
use bowline_proxy::contract::reason::Reason;
use serde_json::json;
use tokio::time::sleep;

use crate::context::{Context, Figures};
use crate::meshed::short_lived::ShortLived;
use crate::meshed::{self, App, Caller, MESH, SOON, app, operator};
use e2e::cluster::kubectl::kubectl_command;

/// How long members are watched without a control plane.
const AWAY: Duration = Duration::from_secs(10);
/// The same in the long form.
const LONG: Duration = Duration::from_secs(300);

/// Runs the test; leaves the operator running, whatever happens.
pub async fn run(cx: &Context) -> Result<Figures> {
    let short = ShortLived::deploy(cx).await.context("a Mesh with short-lived leaves")?;
    let ns = cx.temp_ns("e2e-gone", Some(MESH)).await?;
    let outside = cx.temp_ns("e2e-gone-outside", None).await?;
    let apps = [App::new("server").replicas(2), App::new("client"), App::new("late")];
    app::deploy(cx, &ns, &apps).await?;
    app::deploy(cx, &outside, &[App::new("plain")]).await?;
    let result = without(cx, &ns, &outside, &short).await;
    let start = Instant::now();
    operator::ensure(cx).await?;
    let mut figures = result?;
    back(cx, &ns).await.context("after the operator came back")?;
    short.back(&mut figures, start).await.context("short-lived leaves after the operator came back")?;
    Ok(figures)
}

async fn without(cx: &Context, ns: &str, outside: &str, short: &ShortLived<'_>) -> Result<Figures> {
    let client = Caller::of(cx, ns, "client").await?;
    let server = Caller::of(cx, ns, "server").await?;
    let plain = format!("http://plain.{outside}/");
    let pod_address = format!("http://{}:8080/", server.ip);
    // All that is to be reached later is reached once.
    for url in ["http://server/", "http://server:8088/", &plain, &pod_address] {
        client.get(url).await?;
    }
    let urls = ["--url", "http://server/", "--url", "http://server:8088/", "--url", &plain, "--url", &pod_address];
    let more = ["--rate", "60", "--fresh-percent", "50", "--streams", "4", "--tcp", "server:9000"];
    client.steady_load(&[&urls[..], &more[..]].concat(), 5).await?;

    let start = Instant::now();
    operator::remove(cx).await?;
    let gone = Instant::now();
    let to_the_end = async { short.until_the_end().await.context("leaves that end while the operator is away") };
    let meanwhile = async {
        unknown(&client, ns).await?;
        app::deploy(cx, outside, &[App::new("newcomer")])
            .await
            .context("a pod outside the mesh without the operator")?;
        refused(cx, ns).await.context("a new member without the operator")?;
        // A container that dies in a meshed pod comes back without the control plane, too.
        restart(cx, ns).await
    };
    let (killed, mut figures) = tokio::try_join!(meanwhile, to_the_end)?;
    // Time is what is tested here, and not waited for anything.
    let watch = if cx.long() { LONG } else { AWAY };
    sleep(watch.saturating_sub(gone.elapsed())).await;
    for url in ["http://server/", &plain, &pod_address] {
        client.get(url).await.context("without the operator")?;
    }
    let away = gone.elapsed().as_secs();

    let restarts = meshed::restarts(cx, ns, "").await?;
    ensure!(restarts == killed, "{restarts} containers restarted instead of the {killed} that was made to");

    let load = client.stop_load().await?;
    load.flawless(5).context("load while the operator was away")?;
    figures
        .set("away_seconds", away)
        .set("seconds", start.elapsed().as_secs())
        .set("container_restarts", restarts - killed);
    Ok(load.figures(figures))
}

/// A destination that was never asked for: an answer with the reason, soon.
async fn unknown(client: &Caller<'_>, ns: &str) -> Result<()> {
    let start = Instant::now();
    let report = client.call(&["get", &format!("http://late.{ns}/"), "--timeout", "20"]).await?;
    let reason = &report["headers"]["bowline-reason"];
    let wanted = Reason::ControlPlaneUnavailable.as_str();
    ensure!(report["status"] == 503 && reason == wanted, "an unknown destination: {report}");
    ensure!(start.elapsed() < Duration::from_secs(15), "the answer took {:?}", start.elapsed());
    Ok(())
}

/// Nobody starts half-meshed: a member is refused, and told by whom; who wants no sidecar starts.
async fn refused(cx: &Context, ns: &str) -> Result<()> {
    let account = json!({ "serviceAccountName": "default" });
    let member = app::pod("orphan", json!({}), account.clone());
    // Where processes cannot be seen, one may be asked for some seconds after its pod has gone.
    let asked = ["create", "--dry-run=server", "--namespace", ns, "--filename", "-"];
    let refusal = || async {
        let created = kubectl_command(cx.env())?.args(asked).input(member.to_string()).output().await;
        created.map_or_else(|error| Ok(format!("{error:#}")), |_| bail!("a member would be admitted"))
    };
    cx.eventually(SOON, "members are not refused", refusal).await?;
    let Err(error) = cx.apply_yaml(ns, &member.to_string()).await else {
        bail!("it was admitted");
    };
    let message = format!("{error:#}");
    for word in ["failed calling webhook", "inject.bowline.dev"] {
        ensure!(message.contains(word), "the refusal does not speak of {word:?}: {message}");
    }
    let mut out = app::pod("hermit", json!({}), account);
    out["metadata"]["labels"][INJECT_LABEL] = "false".into();
    cx.apply_yaml(ns, &out.to_string()).await.context("a pod that wants no sidecar is refused")?;
    cx.ready_pod(ns, "app=hermit", SOON).await.map(drop)
}

/// Lets the application's container of `late` die and come back while the control plane is away; returns its restarts.
async fn restart(cx: &Context, ns: &str) -> Result<i32> {
    let late = Caller::of(cx, ns, "late").await?;
    // The readiness probe goes through the proxy: Ready again means that the pod works.
    late.call(&["ctl", "die"]).await?;
    cx.eventually(SOON, "a container that died did not come back", || async {
        let restarts = meshed::restarts(cx, ns, "app=late").await?;
        ensure!(restarts == 1, "{restarts} restarts");
        cx.ready_pod(ns, "app=late", Duration::from_secs(1)).await?;
        Ok(restarts)
    })
    .await
}

/// The unknown becomes known, new members start, everybody is connected.
async fn back(cx: &Context, ns: &str) -> Result<()> {
    let client = Caller::of(cx, ns, "client").await?;
    let url = format!("http://late.{ns}/");
    cx.eventually(SOON, "what was unknown stays unknown", || client.get(&url)).await?;
    app::deploy(cx, ns, &[App::new("member")]).await?;
    cx.eventually(SOON, "proxies do not find back to the control plane", || async {
        let metrics = meshed::scrape(cx, ns, "app in (client,server,late,member)").await?;
        let connected = metrics.sum("bowline_control_connected", &[]);
        ensure!((connected - 5.0).abs() < 0.1, "{connected} of 5 are connected");
        Ok(())
    })
    .await
}
