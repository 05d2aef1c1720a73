//! When Meshes are reconciled. Whatever changes in a cluster that could concern a Mesh (a namespace's labels, a pod, a trust ConfigMap, the
//! CA's Secret) marks every Mesh: there are few of them, each reconcile reads caches only, and one that finds nothing to do writes nothing.

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
    Api, Client, ResourceExt,
    runtime::{controller::Action, watcher},
};
use tokio::sync::watch;

use super::{error::ReconcileError, namespaces, queue, reconcile::MeshReconciler};
use crate::{
    cluster::cache::{self, Cache},
    runtime::{readiness::Readiness, shutdown::TaskResult},
    telemetry::Outcome,
};

/// Name in metrics.
const CONTROLLER: &str = "mesh";
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Longest wait after a failure while a rotation is under way.
const ROTATING: Duration = Duration::from_secs(2);

/// What the controller hands to each reconcile.
struct Controller {
    reconciler: MeshReconciler,
    /// Failures in a row, by Mesh.
    failures: Mutex<BTreeMap<String, u32>>,
}

/// The trust ConfigMaps of all Meshes, and the task that watches them for as long as it is polled.
pub fn config_maps(client: &Client) -> (Cache<ConfigMap>, impl Future<Output = TaskResult> + Send + use<>) {
    let of_ours = watcher::Config::default().labels(OWNER_LABEL);
    let ready = Readiness::default().check("trust ConfigMaps");
    Cache::new(Api::all(client.clone()), of_ours, cache::trim_meta, ready)
}

/// Reconciles for as long as it is polled; `fill` keeps the reconciler's ConfigMaps fresh.
///
/// # Errors
/// When a watch ends for good.
pub async fn run(reconciler: MeshReconciler, fill: impl Future<Output = TaskResult> + Send) -> TaskResult {
    let control = async move {
        // A decision on half of the evidence could take a bundle from those who need it.
        reconciler.registry.synced().await;
        reconciler.namespaces.synced().await;
        reconciler.pods.synced().await;
        reconciler.config_maps.synced().await;
        // Nor is one without the control plane's addresses to be published.
        let _ = reconciler.control_ips.clone().wait_for(Option::is_some).await;
        let MeshReconciler { registry, namespaces, pods, recorder, .. } = &reconciler;
        let namespaces = namespaces::run(registry.clone(), namespaces.clone(), pods.clone(), recorder.clone());
        let controller = Arc::new(Controller { reconciler, failures: Mutex::default() });
        tokio::join!(control(controller), namespaces);
        Ok(())
    };
    tokio::try_join!(fill, control).map(|((), ())| ())
}

async fn control(controller: Arc<Controller>) {
    let reconciler = &controller.reconciler;
    let triggers = [
        reconciler.registry.subscribe(),
        reconciler.namespaces.subscribe(),
        reconciler.pods.subscribe(),
        reconciler.config_maps.subscribe(),
        reconciler.authorities.subscribe(),
    ];
    let marking = Arc::clone(&controller);
    let objects = triggers.into_iter().map(|t| -> BoxStream<'static, ()> { Box::pin(changes(t)) });
    let others: [BoxStream<'static, ()>; 2] =
        [Box::pin(changes(reconciler.webhook.clone())), Box::pin(changes(reconciler.control_ips.clone()))];
    let changes = stream::select_all(objects.chain(others));
    reconciler.metrics.queue.begins(CONTROLLER, queue::CONCURRENCY);
    let once = Arc::clone(&controller);
    queue::run(
        reconciler.registry.store(),
        changes,
        move || marking.mark(),
        move |mesh| once.clone().once(mesh),
        |mesh, error| controller.failed(mesh, error),
    )
    .await;
}

/// One item for every change, and one to begin with.
pub(super) fn changes<T: Send + Sync + 'static>(watched: watch::Receiver<T>) -> impl Stream<Item = ()> + Send {
    stream::unfold((watched, true), |(mut watched, first)| async move {
        if !first {
            watched.changed().await.ok()?;
        }
        watched.borrow_and_update();
        Some(((), (watched, false)))
    })
}

impl Controller {
    /// All Meshes are about to be looked at.
    fn mark(&self) {
        let all: Vec<String> = self.reconciler.registry.all().iter().map(|m| m.name_any()).collect();
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| all.contains(name));
        self.reconciler.metrics.queue.mark(CONTROLLER, all);
    }

    async fn once(self: Arc<Self>, mesh: Arc<Mesh>) -> Result<Action, ReconcileError> {
        let name = mesh.name_any();
        self.reconciler.metrics.queue.started(CONTROLLER, &name);
        let ended = self.reconciler.reconcile(mesh, SystemTime::now()).await;
        let outcome = if ended.is_ok() { Outcome::RequeueAfter } else { Outcome::Error };
        self.reconciler.metrics.queue.ended(CONTROLLER, &name, outcome);
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
