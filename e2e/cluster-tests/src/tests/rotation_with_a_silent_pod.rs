//! A proxy does not answer while the root is replaced: the status names it and says until when it is waited for; the old root stays until
//! every leaf that it may hold has expired. The others lose nothing, and when it comes to itself the pod works again without help.
//!
//! Seen to fail: an old root that goes by a clock of its own is gone before the leaf's end, which the proxy told before it fell silent; a
//! proxy that only believes the roots that it knew never comes back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bowline_crds::mesh::RotationStatus;
use bowline_crds::names::ROTATE_ROOT_ANNOTATION;
use serde_json::json;

use crate::context::{Context, Figures, pods};
use crate::meshed::fleet::{Fleet, Size};
use crate::meshed::frozen::Frozen;
use crate::meshed::rotation::{self, Steady};
use crate::meshed::timeline::Timeline;
use crate::meshed::{self, App, Caller, SOON, app, chain};

const MESH: &str = "e2e-rotation-silent";
/// The shortest life of a leaf that a Mesh may ask for.
const LEAF: Duration = Duration::from_secs(60);
/// Clocks differ by at most a tenth of it.
const MARGIN: Duration = Duration::from_secs(6);
/// Two steps wait for somebody who is silent: the one before the new root signs, and the one before the old issuing CA goes.
const BOUND: Duration = Duration::from_secs(2 * (60 + 6) + 60);

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    let life = if cx.long() { 3 * LEAF } else { LEAF };
    let leaf = format!("{}s", life.as_secs());
    let old = rotation::mesh(cx, MESH, json!({ "leafLifetime": leaf })).await?;
    let ns = cx.temp_ns(MESH, Some(MESH)).await?;
    app::deploy(cx, &ns, &[App::new("silent"), App::new("friend")]).await?;
    let fleet = Fleet::deploy(cx, &ns, Size { servers: 2, clients: 2, guests: 1, rate: 25 }).await?;
    fleet.start().await?;
    let friend = Caller::of(cx, &ns, "friend").await?;
    friend.get("http://silent/").await?;

    let pod = cx.ready_pod(&ns, "app=silent", SOON).await?;
    let (frozen, expires) = fall_silent(cx, &pod).await?;
    let timeline = Timeline::start(cx, MESH).await?;
    rotation::annotate(cx, MESH, ROTATE_ROOT_ANNOTATION, &rotation::nonce()?).await?;
    let named = named(cx, &format!("{ns}/{}", pods::name(&pod))).await?;
    let new = rotation::until(cx, MESH, "a new root alone", BOUND.max(life * 3 + 2 * MARGIN), |now| {
        let now = Steady::of(now)?;
        ensure!(now.root != old.root, "the root is the old one");
        Ok(now)
    })
    .await?;
    let gone = jiff::Timestamp::now();
    ensure!(gone >= expires, "the old root went at {gone}, the silent pod's leaf lived until {expires}");
    let history = timeline.stop(cx).await?;
    until(&named, life, expires)?;

    frozen.thaw();
    let back = friend.call(&["get", "http://silent/", "--until", "60"]).await?;
    ensure!(back["status"] == 200, "the pod that was silent does not come back: {back}");
    Caller::at(cx, &pod)?.get("http://server/").await.context("from the pod that was silent")?;
    chain::ends_at(cx, MESH, &ns, "silent", &new.root).await?;
    let load = fleet.stop().await.context("of the others")?;
    let restarts = fleet.no_restarts().await?;
    meshed::delete(cx, MESH).await?;
    let seconds = history.seconds(bowline_crds::mesh::RotationKind::Root, &old.root)?;
    Ok(seconds
        .figures(load.figures(Figures::new()))
        .with("container_restarts", restarts)
        .with("leaf_seconds", life.as_secs()))
}

/// Stops the pod's proxies; they, and when their leaf ends.
async fn fall_silent(cx: &Context, pod: &k8s_openapi::api::core::v1::Pod) -> Result<(Frozen, jiff::Timestamp)> {
    let ends = || async {
        let metrics = meshed::scrape_one(cx, pods::ip(pod)?).await?;
        let end = metrics.sum("bowline_leaf_not_after_seconds", &[]);
        Ok::<_, anyhow::Error>(jiff::Timestamp::from_second(end as i64)?)
    };
    // Fresh enough not to be renewed between the question and the frost.
    let expires = cx
        .eventually(SOON, "the pod's leaf is not renewed", || async {
            let end = ends().await?;
            let left = end.as_second() - jiff::Timestamp::now().as_second();
            ensure!(left > LEAF.as_secs() as i64 * 3 / 4, "it lives for {left} s more");
            Ok(end)
        })
        .await?;
    Ok((Frozen::new(pod)?, expires))
}

/// Waits until the status names the pod as the one that is waited for, and until when.
async fn named(cx: &Context, name: &str) -> Result<RotationStatus> {
    rotation::until(cx, MESH, "the silent pod is named", SOON, |now| {
        let rotation = now.rotation.clone().context("no rotation")?;
        ensure!(rotation.waiting_for.iter().any(|n| n == name), "waited for: {:?}", rotation.waiting_for);
        ensure!(rotation.waiting_proxies >= 1, "{} proxies are waited for", rotation.waiting_proxies);
        rotation.waiting_until.as_ref().context("it is not told until when")?;
        Ok(rotation)
    })
    .await
}

/// The promise is not shorter than the leaf's life, and not longer than a leaf of the step's begin may live.
fn until(named: &RotationStatus, life: Duration, expires: jiff::Timestamp) -> Result<()> {
    let promised = named.waiting_until.as_ref().context("it is not told until when")?.0.as_second();
    ensure!(promised >= expires.as_second(), "waited until {promised} only, the leaf lives until {expires}");
    let latest = named.since.0.as_second() + i64::try_from((life + life / 10).as_secs())? + 1;
    ensure!(promised <= latest, "waited until {promised}, later than {latest}, when every leaf has expired");
    Ok(())
}
