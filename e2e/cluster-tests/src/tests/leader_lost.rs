//! Two replicas, the leader is killed without a chance to give its Lease back: the other takes over within the Lease's duration
//! and reconciling goes on. Then the leader is deleted as any pod is: it gives its Lease back, and the other takes it at once.
//! Applications notice nothing.
//!
//! Seen to fail: without election the new namespace gets its trust bundle at once from the old holder's name, or never; a Lease that is not
//! given back passes only after its duration.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bowline_operator::leader::RETRY;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;

use crate::context::{Context, Figures};
use crate::meshed::{self, App, Caller, MESH, SOON, app, authority, operator};
use e2e::cluster::install::NAMESPACE;

/// What anything may take more than it should, with the machine busy starting another replica and now and then standing still. Generous: what
/// would never happen does not happen then either.
const MARGIN: Duration = Duration::from_secs(30);
/// How often the leader crashes at most, until its Lease is taken in time: a machine that stood still once does not each time.
const CRASHES: usize = 3;

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-leader", Some(MESH)).await?;
    app::deploy(cx, &ns, &[App::new("server"), App::new("client")]).await?;
    let client = Caller::of(cx, &ns, "client").await?;
    let load = ["--url", "http://server/", "--rate", "50", "--streams", "4", "--tcp", "server:9000"];
    client.steady_load(&load, 5).await?;

    let usual = reconciled(cx, "e2e-leader-before", SOON).await?;
    let figures = crashed(cx, usual).await.context("the leader crashed")?;
    operator::ensure(cx).await?;
    let figures = deleted(cx, usual, figures).await.context("the leader was deleted")?;

    let load = client.stop_load().await?;
    load.flawless(5).context("load while the leader changed")?;
    operator::ensure(cx).await?;
    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    let figures = figures.with("reconcile_seconds", tenth(usual)).with("container_restarts", restarts);
    Ok(load.figures(figures))
}

/// A new member is something to reconcile: its trust bundle is the leader's work. Returns how long it took.
async fn reconciled(cx: &Context, namespace: &str, limit: Duration) -> Result<Duration> {
    let ns = cx.temp_ns(namespace, Some(MESH)).await?;
    let start = Instant::now();
    cx.eventually(limit, "nobody published the trust bundle", || authority::trust(cx, &ns, MESH)).await?;
    Ok(start.elapsed())
}

/// Without a goodbye: the Lease has to run out, and then it is taken in time.
async fn crashed(cx: &Context, usual: Duration) -> Result<Figures> {
    let mut late = vec![];
    while late.len() < CRASHES {
        let (taken, limit, figures) = crash(cx, usual).await?;
        if taken <= limit {
            return Ok(figures);
        }
        late.push(format!("{taken:?} instead of {limit:?}"));
        operator::ensure(cx).await?;
    }
    bail!("the Lease was taken late each time: after {}", late.join(", "))
}

/// Crashes the leader; returns when the Lease was taken, when it should have been, and what was measured.
async fn crash(cx: &Context, usual: Duration) -> Result<(Duration, Duration, Figures)> {
    let (old, lease) = operator::leader(cx).await?;
    let start = Instant::now();
    operator::crash(cx, &old).await?;
    // The other replica saw the last renewal, and sees the end of it, up to one look late.
    let limit = lease + 2 * RETRY + Duration::from_secs(1);
    let new = successor(cx, &old, limit + MARGIN).await?;
    let taken = start.elapsed();
    let after = reconciled(cx, "e2e-leader-joined", usual + MARGIN).await.context("after the Lease was taken")?;
    let holder = new.holder_identity.unwrap_or_default();
    ensure!(operator::leader(cx).await?.0 == holder, "{holder} has lost the Lease again");
    // Admission and certificates never depended on the leader.
    app::deploy(cx, "e2e-leader-joined", &[App::new("newcomer")])
        .await
        .context("a member that starts after the loss")?;
    let figures = Figures::new()
        .with("lease_seconds", lease.as_secs())
        .with("taken_after_seconds", tenth(taken))
        .with("reconciled_after_seconds", tenth(taken + after));
    Ok((taken, limit, figures))
}

/// With a goodbye: the Lease passes while it still would have lasted.
async fn deleted(cx: &Context, usual: Duration, figures: Figures) -> Result<Figures> {
    let (old, lease) = operator::leader(cx).await?;
    let renewed = self::lease(cx).await?.renew_time.context("the Lease was never renewed")?;
    let start = Instant::now();
    Api::<Pod>::namespaced(cx.client(), NAMESPACE).delete(&old, &DeleteParams::default()).await?;
    // That it does not wait for the Lease's end is judged by what the Lease says.
    let new = successor(cx, &old, lease + 2 * RETRY + MARGIN).await?;
    let handover = start.elapsed();
    let acquired = new.acquire_time.context("the new holder does not tell since when")?;
    let left = renewed.0.as_millisecond() + i64::try_from(lease.as_millis())? - acquired.0.as_millisecond();
    ensure!(left > 0, "the Lease was not given back: it was taken {} ms after it had run out", -left);
    reconciled(cx, "e2e-leader-handed", usual + MARGIN).await.context("after the Lease was handed over")?;
    Ok(figures.with("handover_seconds", tenth(handover)))
}

/// Waits until somebody else than `old` holds the Lease.
async fn successor(cx: &Context, old: &str, limit: Duration) -> Result<LeaseSpec> {
    cx.eventually(limit, "nobody takes the Lease", || async {
        let spec = lease(cx).await?;
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        ensure!(!holder.is_empty() && holder != old, "it is held by {holder:?}");
        Ok(spec)
    })
    .await
}

async fn lease(cx: &Context) -> Result<LeaseSpec> {
    let lease = Api::<Lease>::namespaced(cx.client(), NAMESPACE).get(operator::NAME).await?;
    lease.spec.context("the Lease is empty")
}

fn tenth(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
