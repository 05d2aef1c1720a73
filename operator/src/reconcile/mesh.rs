//! Reconciles Meshes: [`fetch`] → [`validate`](crate::cluster::mesh::validate) → [`build`] → [`apply`] → [`status`]. Leader only.
//!
//! Whatever changes in a cluster that could concern a Mesh (a namespace's labels, a pod, a trust ConfigMap, the CA's Secret) marks every
//! Mesh: there are few of them, each reconcile reads caches only, and one that finds nothing to do writes nothing.

pub mod apply;
pub mod build;
pub mod deletion;
pub mod fetch;
pub mod namespaces;
pub mod new_root;
pub mod news;
pub mod pods;
mod queue;
pub mod reconcile;
pub mod status;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bowline_crds::{Mesh, names::OWNER_LABEL};
use futures_util::{
    Stream,
    stream::{self, BoxStream},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    runtime::{controller::Action, watcher},
};
use tokio::sync::watch;

use self::reconcile::{ReconcileError, reconcile};
use crate::{
    cluster::cache::{self, Cache},
    runtime::{context::Ctx, readiness::Readiness, shutdown::TaskResult},
    telemetry::Outcome,
};

/// Name in metrics.
const CONTROLLER: &str = "mesh";
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Longest wait after a failure while a rotation is under way.
const ROTATING: Duration = Duration::from_secs(2);

/// What the controller hands to each reconcile.
struct Reconciler {
    ctx: Arc<Ctx>,
    config_maps: Cache<ConfigMap>,
    /// Failures in a row, by Mesh.
    failures: Mutex<BTreeMap<String, u32>>,
}

/// Reconciles for as long as it is polled.
///
/// # Errors
/// When a watch ends for good.
pub async fn run(ctx: Arc<Ctx>) -> TaskResult {
    let of_ours = watcher::Config::default().labels(OWNER_LABEL);
    let gate = Readiness::default().check("trust ConfigMaps");
    let (config_maps, fill) = Cache::new(Api::all(ctx.client.clone()), of_ours, cache::trim_meta, gate);
    let reconciler =
        Arc::new(Reconciler { ctx: ctx.clone(), config_maps: config_maps.clone(), failures: Mutex::default() });
    let control = async move {
        // A decision on half of the evidence could take a bundle from those who need it.
        ctx.registry.synced().await;
        ctx.namespaces.synced().await;
        ctx.pods.synced().await;
        config_maps.synced().await;
        // Nor is one without the control plane's addresses to be published.
        let mut control_ips = ctx.control_ips.subscribe();
        let _ = control_ips.wait_for(Option::is_some).await;
        tokio::join!(control(reconciler), namespaces::run(ctx));
        Ok(())
    };
    tokio::try_join!(fill, control).map(|((), ())| ())
}

async fn control(reconciler: Arc<Reconciler>) {
    let ctx = reconciler.ctx.clone();
    let triggers = [
        ctx.registry.subscribe(),
        ctx.namespaces.subscribe(),
        ctx.pods.subscribe(),
        reconciler.config_maps.subscribe(),
        ctx.authorities.subscribe(),
    ];
    let marking = reconciler.clone();
    let objects = triggers.into_iter().map(|t| -> BoxStream<'static, ()> { Box::pin(changes(t)) });
    let others: [BoxStream<'static, ()>; 2] =
        [Box::pin(changes(ctx.webhook.subscribe())), Box::pin(changes(ctx.control_ips.subscribe()))];
    let changes = stream::select_all(objects.chain(others));
    ctx.metrics.queue.begins(CONTROLLER, queue::CONCURRENCY);
    let once = reconciler.clone();
    queue::run(
        ctx.registry.store(),
        changes,
        move || marking.mark(),
        move |mesh| once.clone().once(mesh),
        |mesh, error| reconciler.failed(mesh, error),
    )
    .await;
}

/// One item for every change, and one to begin with.
fn changes<T: Send + Sync + 'static>(watched: watch::Receiver<T>) -> impl Stream<Item = ()> + Send {
    stream::unfold((watched, true), |(mut watched, first)| async move {
        if !first {
            watched.changed().await.ok()?;
        }
        watched.borrow_and_update();
        Some(((), (watched, false)))
    })
}

impl Reconciler {
    /// All Meshes are about to be looked at.
    fn mark(&self) {
        let all: Vec<String> = self.ctx.registry.all().iter().map(|m| m.name_any()).collect();
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| all.contains(name));
        self.ctx.metrics.queue.mark(CONTROLLER, all);
    }

    async fn once(self: Arc<Self>, mesh: Arc<Mesh>) -> Result<Action, ReconcileError> {
        let name = mesh.name_any();
        self.ctx.metrics.queue.started(CONTROLLER, &name);
        let ended = reconcile(&self.ctx, &self.config_maps, mesh, SystemTime::now()).await;
        let outcome = if ended.is_ok() { Outcome::RequeueAfter } else { Outcome::Error };
        self.ctx.metrics.queue.ended(CONTROLLER, &name, outcome);
        let wait = ended?;
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        Ok(Action::requeue(wait))
    }

    fn failed(&self, mesh: &Mesh, error: &ReconcileError) -> Action {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(mesh.name_any()).or_default();
        *count = count.saturating_add(1);
        let wait = backoff(*count).min(longest(mesh));
        tracing::warn!(mesh = mesh.name_any(), %error, ?wait, "the reconcile failed, it is tried again");
        Action::requeue(wait)
    }
}

/// Longest wait after a failure: one namespace that cannot be written must not slow a rotation down.
fn longest(mesh: &Mesh) -> Duration {
    let certificates = mesh.status.as_ref().and_then(|s| s.certificates.as_ref());
    if certificates.is_some_and(|c| c.rotation.is_some()) { ROTATING } else { BACKOFF.1 }
}

/// Doubles with every failure in a row.
fn backoff(failures: u32) -> Duration {
    let doubled = BACKOFF.0.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(BACKOFF.1).mul_f64(1.0 - rand::random::<f64>() / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_crds::MeshSpec;
    use serde_json::json;

    #[test]
    fn failures_slow_a_rotation_down_by_little() {
        let mut mesh = Mesh::new("m", MeshSpec::default());
        assert_eq!(longest(&mesh), BACKOFF.1);
        let at = "2026-01-01T00:00:00Z";
        let rotation = json!({
            "kind": "Root", "cause": "Requested", "phase": "Staged", "began": at, "since": at, "message": "",
            "waitingProxies": 0, "waitingReplicas": 0
        });
        let certificates = json!({ "bundleSequence": 1, "roots": [], "issuers": [], "rotation": rotation });
        mesh.status = serde_json::from_value(json!({ "certificates": certificates })).unwrap();
        assert_eq!(longest(&mesh), ROTATING);
    }
}
