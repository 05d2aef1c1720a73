//! Two replicas, the leader is killed without a chance to give its Lease back: the other takes over within the Lease's duration
//! and reconciling goes on; applications notice nothing.
//!
//! Seen to fail: without election the new namespace gets its trust bundle at once from the old holder's name, or never.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::context::{Context, Figures};
use crate::meshed::{self, App, Caller, MESH, app, authority, operator};

/// What a reconcile may take beyond the Lease.
const MARGIN: Duration = Duration::from_secs(10);

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-leader", Some(MESH)).await?;
    app::deploy(cx, &ns, &[App::new("server"), App::new("client")]).await?;
    let client = Caller::of(cx, &ns, "client").await?;
    client.start_load(&["--url", "http://server/", "--rate", "50", "--streams", "4", "--tcp", "server:9000"]).await?;

    let (old, lease) = operator::leader(cx).await?;
    operator::crash(cx, &old).await?;
    let start = Instant::now();
    let limit = lease + MARGIN;
    // A new member is something to reconcile: its trust bundle is the leader's work.
    let joined = cx.temp_ns("e2e-leader-joined", Some(MESH)).await?;
    let what = "nobody published the trust bundle after the leader was killed; it did not happen";
    cx.eventually(limit, what, || authority::trust(cx, &joined, MESH)).await?;
    let reconciled = start.elapsed();
    let (new, _) = operator::leader(cx).await?;
    ensure!(new != old, "the Lease is still {old}'s");
    // Admission and certificates never depended on the leader.
    app::deploy(cx, &joined, &[App::new("newcomer")]).await.context("a member that starts after the loss")?;

    let load = client.stop_load().await?;
    load.flawless(5).context("load while the leader changed")?;
    operator::ensure(cx).await?;
    let seconds = (reconciled.as_secs_f64() * 10.0).round() / 10.0;
    Ok(load.figures(Figures::new()).with("lease_seconds", lease.as_secs()).with("reconciled_after_seconds", seconds))
}
