//! A rotation is aborted: while the new root only stands in the bundles it goes again; when it signs already, the old one signs again and
//! the new one retires. Under load; no request fails, and the old root is all that is left.
//!
//! Somebody who is silent holds each step for as long as the test needs it: leaves live for a day here, so that nothing else ends the
//! wait. Seen to fail: a rotation that went on all the same replaces the fingerprint.

use anyhow::{Context as _, Result, ensure};
use bowline_crds::mesh::{AuthorityPhase, CertificatesStatus, RotationCause};
use bowline_crds::names::{ABORT_ROTATION_ANNOTATION, ROTATE_ROOT_ANNOTATION};
use serde_json::json;

use crate::context::{Context, Figures};
use crate::meshed::fleet::{Fleet, Size};
use crate::meshed::frozen::Frozen;
use crate::meshed::rotation::{self, ROTATED, Steady, phase};
use crate::meshed::timeline::Timeline;
use crate::meshed::{self, App, SOON, app, chain};

const MESH: &str = "e2e-rotation-abort";
/// Who holds the first step, and who the second.
const SILENT: [&str; 2] = ["early", "late"];

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    let old = rotation::mesh(cx, MESH, json!({})).await?;
    let ns = cx.temp_ns(MESH, Some(MESH)).await?;
    app::deploy(cx, &ns, &SILENT.map(App::new)).await?;
    let fleet = Fleet::deploy(cx, &ns, Size { servers: 2, clients: 2, guests: 1, rate: 25 }).await?;
    fleet.start().await?;
    let timeline = Timeline::start(cx, MESH).await?;

    distributed(cx, &ns, &old).await.context("aborted while the new root stood in the bundles only")?;
    let distributed = timeline.elapsed().as_secs();
    active(cx, &ns, &old).await.context("aborted after the new root had begun to sign")?;
    let active = timeline.elapsed().as_secs() - distributed;

    let load = fleet.stop().await?;
    let restarts = fleet.no_restarts().await?;
    timeline.stop(cx).await?;
    chain::ends_at(cx, MESH, &ns, "server", &old.root).await?;
    meshed::ready(cx, MESH, SOON).await?;
    meshed::delete(cx, MESH).await?;
    Ok(load
        .figures(Figures::new())
        .with("container_restarts", restarts)
        .with("seconds_aborted_distributed", distributed)
        .with("seconds_rolled_back", active))
}

/// Begins a rotation that `app` holds before the new root signs.
async fn begin_held(cx: &Context, ns: &str, app: &str, old: &Steady) -> Result<Frozen> {
    let pod = cx.ready_pod(ns, &format!("app={app}"), SOON).await?;
    let frozen = Frozen::new(&pod)?;
    rotation::annotate(cx, MESH, ROTATE_ROOT_ANNOTATION, &rotation::nonce()?).await?;
    // Everybody else has the new root by then.
    let name = format!("{ns}/{}", crate::context::pods::name(&pod));
    rotation::until(cx, MESH, "the new root in the bundles, and one pod waited for", SOON, |now| {
        ensure!(phase(&now.roots, &old.root) == Some(AuthorityPhase::Active), "the old root does not sign");
        ensure!(new_root(now, old) == Some(AuthorityPhase::Distributed), "the new root is not distributed");
        let waits = now.rotation.as_ref().context("no rotation")?;
        ensure!(
            waits.waiting_for == [name.as_str()] && waits.waiting_proxies == 1 && waits.waiting_replicas == 0,
            "waited for: {:?}, {} proxies, {} replicas",
            waits.waiting_for,
            waits.waiting_proxies,
            waits.waiting_replicas
        );
        Ok(())
    })
    .await?;
    Ok(frozen)
}

async fn distributed(cx: &Context, ns: &str, old: &Steady) -> Result<()> {
    let frozen = begin_held(cx, ns, SILENT[0], old).await?;
    abort(cx).await?;
    // Nobody has a leaf of the new root: that somebody is silent does not matter.
    back(cx, old).await?;
    frozen.thaw();
    Ok(())
}

async fn active(cx: &Context, ns: &str, old: &Steady) -> Result<()> {
    let early = begin_held(cx, ns, SILENT[0], old).await?;
    // This one has said that it trusts the new root, and will not get a leaf of it: that holds the next step.
    let late = Frozen::new(&cx.ready_pod(ns, &format!("app={}", SILENT[1]), SOON).await?)?;
    early.thaw();
    rotation::until(cx, MESH, "the new root signs and the old one retires", SOON, |now| {
        ensure!(phase(&now.roots, &old.root) == Some(AuthorityPhase::Retiring), "the old root does not retire");
        ensure!(phase(&now.issuers, &old.issuer) == Some(AuthorityPhase::Retiring), "its issuing CA does not retire");
        ensure!(new_root(now, old) == Some(AuthorityPhase::Active), "the new root does not sign");
        Ok(())
    })
    .await?;
    abort(cx).await?;
    rotation::until(cx, MESH, "the old root signs again", SOON, |now| {
        ensure!(phase(&now.roots, &old.root) == Some(AuthorityPhase::Active), "the old root does not sign");
        let cause = now.rotation.as_ref().map(|r| r.cause);
        ensure!(cause.is_none_or(|cause| cause == RotationCause::RolledBack), "the cause is told as {cause:?}");
        Ok(())
    })
    .await?;
    late.thaw();
    back(cx, old).await
}

async fn abort(cx: &Context) -> Result<()> {
    rotation::annotate(cx, MESH, ABORT_ROTATION_ANNOTATION, &rotation::nonce()?).await
}

/// Waits until all is as before.
async fn back(cx: &Context, old: &Steady) -> Result<()> {
    rotation::until(cx, MESH, "the old root and issuing CA alone", ROTATED, |now| {
        let now = Steady::of(now)?;
        ensure!(now.root == old.root && now.issuer == old.issuer, "others have replaced them");
        ensure!(now.sequence > old.sequence, "the sequence of bundles is {} still", now.sequence);
        Ok(())
    })
    .await
}

/// The phase of the root that is not the old one.
fn new_root(now: &CertificatesStatus, old: &Steady) -> Option<AuthorityPhase> {
    now.roots.iter().find(|root| root.fingerprint != old.root).map(|root| root.phase)
}
