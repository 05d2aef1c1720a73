//! Puts the parts together and runs them until SIGTERM.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Client,
    runtime::{
        events::{Recorder, Reporter},
        watcher,
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    ca::{self, Authorities},
    cluster::{
        cache::{self, Cache},
        membership::Registry,
    },
    leader,
    reconcile::{mesh, repair, webhook},
    runtime::{
        config::{Config, OPERATOR_NAME},
        context::Ctx,
        readiness::Readiness,
        shutdown::{Shutdown, TaskResult},
    },
    serving::{admin, control, inject},
    telemetry::Metrics,
};

/// How long new connections and reviews are still served after the end was requested: as long as it takes until every node and every API
/// server has noticed that this replica is not Ready any more.
const SERVES_ON: Duration = Duration::from_secs(8);
/// How long parts may take to end; below the Deployment's grace period of 30 seconds.
const END_DEADLINE: Duration = Duration::from_secs(25);

/// Runs the operator until SIGTERM or SIGINT, or until a part fails.
///
/// # Errors
/// The failure that ended it.
pub async fn run(config: Config) -> TaskResult {
    // Only fails when one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = crate::runtime::client::connect().await?;
    let (ask, shutdown) = Shutdown::serving_on(SERVES_ON);
    let (lead, leader) = watch::channel(false);
    // Ends with the process; aborted when dropped.
    let mut background = JoinSet::new();
    let ctx = Arc::new(context(client, config, shutdown, leader, &mut background));
    tracing::info!(version = bowline_proxy::contract::bootstrap::VERSION, pod = ctx.config.pod_name, "operator starts");
    background.spawn(ca::store::watch(ctx.clone()));
    background.spawn(ca::restore::run(ctx.clone()));
    background.spawn(webhook::serving::watch(ctx.clone()));

    // End by themselves once they are asked to.
    let mut parts = JoinSet::new();
    parts.spawn(admin::serve(ctx.clone()));
    parts.spawn(inject::serve(ctx.clone()));
    parts.spawn(control::serve(ctx.clone()));
    parts.spawn(leader::run(ctx.clone(), lead, leading));

    let outcome = tokio::select! {
        signal = terminated() => signal,
        Some(ended) = parts.join_next() => flat(ended).and(Err("a part of the operator ended by itself".into())),
        Some(ended) = background.join_next() => flat(ended).and(Err("a watch of the operator ended by itself".into())),
    };
    ask.send_replace(true);
    let ended = tokio::time::timeout(END_DEADLINE, async { while parts.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!("not everything ended within {END_DEADLINE:?}");
    }
    outcome
}

fn flat(ended: Result<TaskResult, tokio::task::JoinError>) -> TaskResult {
    ended.unwrap_or_else(|panic| Err(panic.into()))
}

/// What only the leader does.
async fn leading(ctx: Arc<Ctx>) -> TaskResult {
    tokio::try_join!(mesh::run(ctx.clone()), webhook::run(ctx.clone()), repair::run(ctx)).map(|_| ())
}

/// Everything that the parts share; the watches behind it are spawned on `background`.
fn context(
    client: Client,
    config: Config,
    shutdown: Shutdown,
    leader: watch::Receiver<bool>,
    background: &mut JoinSet<TaskResult>,
) -> Ctx {
    let readiness = Readiness::default();
    let (meshes, fill) =
        Cache::new(Api::all(client.clone()), watcher::Config::default(), cache::trim_meta, readiness.check("meshes"));
    background.spawn(fill);
    let (namespaces, fill) = Cache::new(
        Api::all(client.clone()),
        watcher::Config::default(),
        cache::trim_meta,
        readiness.check("namespaces"),
    );
    background.spawn(fill);
    let (pods, fill) =
        Cache::new(Api::all(client.clone()), watcher::Config::default(), cache::trim_pod, readiness.check("pods"));
    background.spawn(fill);
    let reporter = Reporter { controller: OPERATOR_NAME.into(), instance: Some(config.pod_name.clone()) };
    Ctx {
        registry: Registry::new(meshes, &config.namespace),
        namespaces,
        pods,
        authorities: Authorities::new(),
        evidence: control::Evidence::default(),
        tls: control::Tls::default(),
        control_ips: watch::Sender::default(),
        metrics: Metrics::default(),
        webhook: watch::Sender::default(),
        recorder: Recorder::new(client.clone(), reporter),
        serving: Arc::default(),
        readiness,
        leader,
        shutdown,
        client,
        config,
    }
}

/// Ends on SIGTERM or SIGINT.
async fn terminated() -> TaskResult {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("asked to end");
    Ok(())
}
