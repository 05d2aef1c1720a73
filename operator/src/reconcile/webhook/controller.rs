//! When the webhook is reconciled, and what is said of it in metrics and to the Meshes that depend on it.

use std::{
    pin::pin,
    time::{Duration, SystemTime},
};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use tokio::{sync::watch, time::sleep};

use super::{
    configuration,
    error::WebhookError,
    reconcile::{RETRY, Reconciled, WebhookReconciler},
    status::{Blocked, WebhookStatus},
};
use crate::{
    runtime::{config::WEBHOOK_SECRET, shutdown::TaskResult},
    telemetry::{Metrics, Outcome},
};

/// Name in metrics.
const CONTROLLER: &str = "webhook";
/// How long the server may take to answer a probe.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// A server that has not answered more often than this is a failure: right after a start it needs a moment.
const PATIENCE: u32 = 5;

/// Keeps certificate and configuration for as long as it is polled, and says in `status` how they are. Leader only.
///
/// # Errors
/// When a watch ends for good.
pub async fn run(reconciler: WebhookReconciler, metrics: Metrics, status: watch::Sender<WebhookStatus>) -> TaskResult {
    metrics.queue.begins(CONTROLLER, 1);
    let (registry, pods) = (reconciler.registry.clone(), reconciler.pods.clone());
    registry.synced().await;
    pods.synced().await;
    let configurations = Api::all(reconciler.client.clone());
    let mut configuration = pin!(watched::<MutatingWebhookConfiguration>(configurations, configuration::NAME));
    let mut secret = pin!(watched::<Secret>(reconciler.secrets.clone(), WEBHOOK_SECRET));
    // Nothing is decided before both were seen.
    let mut seen_configuration = configuration.next().await.flatten();
    let mut seen_secret = secret.next().await.flatten();
    let (mut meshes, mut pod_changes) = (registry.subscribe(), pods.subscribe());
    let mut controller = Controller::new(reconciler, metrics, status);
    loop {
        let wait = controller.once(seen_secret.as_ref(), seen_configuration.as_ref()).await;
        tokio::select! {
            Some(seen) = configuration.next() => seen_configuration = seen,
            Some(seen) = secret.next() => seen_secret = seen,
            changed = meshes.changed() => changed?,
            // Pods decide when a Mesh that is being deleted may go.
            changed = pod_changes.changed(), if configuration::is_one_leaving(&registry) => changed?,
            () = sleep(wait) => {}
        }
    }
}

/// The object of that name, again whenever it changes; `None`: there is none.
fn watched<K>(api: Api<K>, name: &str) -> impl Stream<Item = Option<K>> + Send
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watch_object(api, name).default_backoff().filter_map(|event| async move {
        event.inspect_err(|error| tracing::warn!(%error, "a watch of the webhook failed, it is tried again")).ok()
    })
}

/// Reconciles, and tells Meshes of it.
pub struct Controller {
    reconciler: WebhookReconciler,
    metrics: Metrics,
    status: watch::Sender<WebhookStatus>,
    /// How often in a row the server did not answer.
    silent: u32,
}

impl Drop for Controller {
    /// Whoever no longer leads knows nothing of the webhook.
    fn drop(&mut self) {
        self.status.send_replace(WebhookStatus::default());
    }
}

impl Controller {
    /// One that has not looked yet.
    #[must_use]
    pub fn new(reconciler: WebhookReconciler, metrics: Metrics, status: watch::Sender<WebhookStatus>) -> Self {
        Self { reconciler, metrics, status, silent: 0 }
    }

    /// One reconcile, measured and told; how long to wait for the next.
    pub async fn once(&mut self, secret: Option<&Secret>, seen: Option<&MutatingWebhookConfiguration>) -> Duration {
        self.metrics.queue.started(CONTROLLER, configuration::NAME);
        let ended = self.reconciler.reconcile(secret, seen, SystemTime::now()).await;
        self.report(&ended, secret, seen);
        let (outcome, wait) = match ended {
            Ok(looked) => (Outcome::RequeueAfter, looked.wait),
            Err(WebhookError::NotServing(error)) => {
                tracing::info!(%error, "the webhook's configuration waits for its server");
                (Outcome::RequeueAfter, RETRY)
            }
            Err(error) => {
                tracing::warn!(%error, "the webhook is not as it should be, it is tried again");
                (Outcome::Error, RETRY)
            }
        };
        self.metrics.queue.ended(CONTROLLER, configuration::NAME, outcome);
        wait
    }

    fn report(
        &mut self,
        ended: &Result<Reconciled, WebhookError>,
        secret: Option<&Secret>,
        seen: Option<&MutatingWebhookConfiguration>,
    ) {
        let is_silent = matches!(ended, Err(WebhookError::NotServing(_)));
        self.silent = if is_silent { self.silent.saturating_add(1) } else { 0 };
        let blocked = |why| {
            let wanted = seen.and_then(|seen| self.reconciler.wanted(&configuration::bundle(seen)));
            WebhookStatus::blocked(wanted.as_ref(), secret, seen, why)
        };
        let status = match ended {
            Ok(Reconciled { in_force: true, wanted, .. }) => WebhookStatus::good(wanted.as_ref()),
            Ok(_) => blocked(Blocked::certificate()),
            Err(error) => blocked(Blocked::by(error, !is_silent || self.silent > PATIENCE)),
        };
        self.status.send_if_modified(|before| {
            let changed = *before != status;
            *before = status;
            changed
        });
    }
}
