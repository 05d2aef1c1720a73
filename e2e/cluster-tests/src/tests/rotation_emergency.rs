//! The key of the root is compromised: the root is replaced at once, and dropped as soon as everybody who can be reached has a new leaf.
//! Connections below it are closed, and nobody who kept a leaf of it gets in any more; applications go on.
//!
//! Seen to fail: a connection that stays open, or a leaf of the old root that is still taken, has a line of its own; the same handshake
//! with a leaf of the new root shows that it is the root that is refused.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bowline_crds::mesh::{RotationCause, RotationKind};
use bowline_crds::names::DISTRUST_ANNOTATION;
use serde_json::{Value, json};

use crate::context::{Context, Figures, pods};
use crate::meshed::authority::{self, Trust};
use crate::meshed::frozen::Frozen;
use crate::meshed::handshake::{Credentials, Held, knock};
use crate::meshed::rotation::Steady;
use crate::meshed::timeline::Timeline;
use crate::meshed::{self, App, Caller, Load, SOON, app, chain, rotation};

const MESH: &str = "e2e-emergency";
/// When everybody can be reached: what a busy machine needs, and far below what somebody silent may cost.
const BOUND: Duration = Duration::from_secs(60);
/// What somebody who is silent may cost more: half a minute for each step.
const SILENT: Duration = Duration::from_secs(90);

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    let old = rotation::mesh(cx, MESH, json!({})).await?;
    let ns = cx.temp_ns(MESH, Some(MESH)).await?;
    let apps = [App::new("server").replicas(2), App::new("client"), App::new("silent")];
    app::deploy(cx, &ns, &apps).await?;
    let client = Caller::of(cx, &ns, "client").await?;
    let before = chain::published(cx, MESH, &ns, &old.root).await?;
    // As somebody would who has stolen them, or made them with the stolen key.
    let (first, second) = (leaf(cx, &ns, &before).await?, leaf(cx, &ns, &before).await?);
    let server = Caller::of(cx, &ns, "server").await?;
    let mut held = Held::open(cx, server.ip, &before.roots, Some(first)).await?;
    ensure!(held.get("/").await? == 200, "a leaf of the root is refused before anybody distrusts it");
    let silent = cx.ready_pod(&ns, "app=silent", SOON).await?;
    // In the long form somebody does not answer.
    let frozen = if cx.long() { Some(Frozen::new(&silent)?) } else { None };

    let streams = ["--streams", "2", "--grpc", "server:9090", "--websocket", "http://server/ws"];
    let rate = ["--url", "http://server/", "--rate", "50", "--fresh-percent", "50"];
    client.start_load(&[&rate[..], &streams[..]].concat()).await?;
    cx.eventually(SOON, "not all streams came up", || async {
        let load = client.load().await?;
        ensure!(load.streams_held == 4, "{} of 4: {}", load.streams_held, load.errors);
        Ok(())
    })
    .await?;
    let (new, figures) = distrust(cx, &old).await?;
    held.closed(SOON).await.context("the connection that was held below the distrusted root")?;

    let after = chain::published(cx, MESH, &ns, &new.root).await?;
    ensure!(after.info.revoked_sha256.contains(&old.root), "the bundle does not tell of it: {:?}", after.info);
    refused(cx, &ns, &after, second).await?;
    chain::ends_at(cx, MESH, &ns, "server", &new.root).await?;
    let figures = applications(cx, &client, figures).await?;
    trust_is_safe(cx).await?;
    if let Some(frozen) = frozen {
        frozen.thaw();
        let back = client.call(&["get", "http://silent/", "--until", "60"]).await?;
        ensure!(back["status"] == 200, "who was silent does not come back: {back}");
    }
    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    meshed::delete(cx, MESH).await?;
    Ok(figures.with("container_restarts", restarts))
}

/// Nothing at risk is trusted any more.
async fn trust_is_safe(cx: &Context) -> Result<()> {
    let mesh = meshed::ready(cx, MESH, SOON).await?;
    let (status, _) = meshed::condition(&mesh, "TrustAtRisk").context("no condition TrustAtRisk")?;
    ensure!(status == "False", "trust is still at risk: {:?}", meshed::conditions(&mesh));
    Ok(())
}

/// A leaf of the client, of the root that signs now.
async fn leaf(cx: &Context, ns: &str, trust: &Trust) -> Result<Credentials> {
    let pod = cx.ready_pod(ns, "app=client", SOON).await?;
    authority::leaf(cx, &pod, trust, &rotation::spiffe(MESH, ns, "client")).await
}

/// Distrusts the root, and waits until another one is alone.
async fn distrust(cx: &Context, old: &Steady) -> Result<(Steady, Figures)> {
    let bound = if cx.long() { BOUND + SILENT } else { BOUND };
    let (timeline, start) = (Timeline::start(cx, MESH).await?, Instant::now());
    rotation::annotate(cx, MESH, DISTRUST_ANNOTATION, &old.root).await?;
    let new = rotation::root_replaced(cx, MESH, old).await?;
    let took = start.elapsed();
    ensure!(took <= bound, "the distrusted root was trusted for {took:?}, longer than {bound:?}");
    let history = timeline.stop(cx).await?;
    history.only(RotationKind::Root, RotationCause::Compromised)?;
    let seconds = history.seconds(RotationKind::Root, &old.root)?;
    Ok((new, seconds.figures(Figures::new())))
}

/// No pod lets anybody in with a leaf of the old root; each still lets in who has one of the new root.
async fn refused(cx: &Context, ns: &str, after: &Trust, old: Credentials) -> Result<()> {
    let Credentials { chain, key } = old;
    for pod in cx.pods(ns, "app=server").await? {
        let old = Credentials { chain: chain.clone(), key: key.clone_key() };
        if let Ok(status) = knock(cx, pods::ip(&pod)?, &after.roots, Some(old), "/").await {
            bail!("a leaf of the distrusted root is answered {status} by {}", pods::name(&pod));
        }
        let new = leaf(cx, ns, after).await?;
        let status = knock(cx, pods::ip(&pod)?, &after.roots, Some(new), "/").await;
        ensure!(status.context("a leaf of the new root")? == 200, "a leaf of the new root is refused");
    }
    Ok(())
}

/// What the applications noticed: what was in flight over connections that were closed, and nothing afterwards.
async fn applications(cx: &Context, client: &Caller<'_>, figures: Figures) -> Result<Figures> {
    cx.eventually(SOON, "streams outlive their connections", || async {
        let Load { streams_held, streams_lost, .. } = client.load().await?;
        ensure!(streams_lost == streams_held, "{streams_lost} of {streams_held} were closed");
        Ok(())
    })
    .await?;
    let during = client.stop_load().await?;
    let Load { sent, failed, streams_lost, errors, .. } = &during;
    // What is under way when a connection is cut off has a second to finish.
    ensure!(*failed == 0, "{failed} of {sent} requests failed meanwhile: {errors}");
    during.settled()?;
    let load = ["load", "--url", "http://server/", "--rate", "50", "--seconds", "5", "--fresh-percent", "100"];
    let report: Value = client.call(&load).await?;
    let load: Load = serde_json::from_value(report)?;
    load.flawless(0).context("after the distrusted root has gone")?;
    Ok(load
        .figures(figures)
        .with("sent_meanwhile", *sent)
        .with("failed_meanwhile", *failed)
        .with("streams_closed", *streams_lost))
}
