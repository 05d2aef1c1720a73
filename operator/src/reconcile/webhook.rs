//! The webhook's serving certificate ([`certificate`], [`serving`]) and its configuration ([`configuration`]): made at run time, so that
//! no Git holds them, and never before a replica really serves ([`probe`]).

pub mod certificate;
pub mod configuration;
pub mod probe;
pub mod serving;
pub mod standing;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bowline_crds::mesh::Rotation;
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::time::sleep;

use self::{
    certificate::{Known, ServingState},
    standing::{HeldUp, Standing},
};
use crate::{
    ca::fingerprint::fingerprint,
    runtime::{config::WEBHOOK_SECRET, context::Ctx, shutdown::TaskResult},
    telemetry::Outcome,
};

/// Name in metrics.
const CONTROLLER: &str = "webhook";
/// Wait after a failure, and before another look at a server that does not answer yet.
const RETRY: Duration = Duration::from_secs(2);
/// How long the server may take to answer a probe.
const ANSWERED: Duration = Duration::from_secs(3);
/// A server that has not answered more often than this is a failure: right after a start it needs a moment.
const PATIENCE: u32 = 5;
/// Looked at again after this long, whatever else happens.
const RESYNC: Duration = Duration::from_secs(3600);

/// Why the webhook is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The API server refused.
    #[error("{object}: {error}")]
    Api {
        /// Kind and name.
        object: &'static str,
        /// Why.
        error: kube::Error,
    },
    /// No certificate could be made.
    #[error(transparent)]
    Certificate(#[from] certificate::CertificateError),
    /// This replica does not serve yet, so nobody is sent to it.
    #[error("the webhook server does not answer as it should yet: {0}")]
    NotServing(#[from] probe::ProbeError),
}

/// Keeps certificate and configuration for as long as it is polled. Leader only.
///
/// # Errors
/// When a watch ends for good.
pub async fn run(ctx: Arc<Ctx>) -> TaskResult {
    ctx.metrics.queue.begins(CONTROLLER, 1);
    ctx.registry.synced().await;
    ctx.pods.synced().await;
    let mut configuration =
        pin!(watched::<MutatingWebhookConfiguration>(Api::all(ctx.client.clone()), configuration::NAME));
    let mut secret = pin!(watched::<Secret>(secrets(&ctx), WEBHOOK_SECRET));
    // Nothing is decided before both were seen.
    let mut seen_configuration = configuration.next().await.flatten();
    let mut seen_secret = secret.next().await.flatten();
    let (mut meshes, mut pods) = (ctx.registry.subscribe(), ctx.pods.subscribe());
    let mut keeper = Keeper::new(&ctx, ANSWERED);
    loop {
        let wait = keeper.once(seen_secret.as_ref(), seen_configuration.as_ref()).await;
        tokio::select! {
            Some(seen) = configuration.next() => seen_configuration = seen,
            Some(seen) = secret.next() => seen_secret = seen,
            changed = meshes.changed() => changed?,
            // Pods decide when a Mesh that is being deleted may go.
            changed = pods.changed(), if configuration::is_one_leaving(&ctx) => changed?,
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

pub(crate) fn secrets(ctx: &Ctx) -> Api<Secret> {
    Api::namespaced(ctx.client.clone(), &ctx.config.namespace)
}

/// Reconciles, and tells Meshes of it.
pub struct Keeper<'a> {
    ctx: &'a Ctx,
    /// How long the server may take to answer.
    answered: Duration,
    /// How often in a row the server did not answer.
    silent: u32,
}

impl Drop for Keeper<'_> {
    /// Whoever no longer leads knows nothing of the webhook.
    fn drop(&mut self) {
        self.ctx.webhook.send_replace(Standing::default());
    }
}

impl<'a> Keeper<'a> {
    /// One that has not looked yet; `answered`: how long the server may take to answer a probe.
    #[must_use]
    pub fn new(ctx: &'a Ctx, answered: Duration) -> Self {
        Self { ctx, answered, silent: 0 }
    }

    /// One reconcile, measured and told; how long to wait for the next.
    pub async fn once(&mut self, secret: Option<&Secret>, seen: Option<&MutatingWebhookConfiguration>) -> Duration {
        self.ctx.metrics.queue.started(CONTROLLER, configuration::NAME);
        let ended = reconcile(self.ctx, secret, seen, SystemTime::now(), self.answered).await;
        self.tell(&ended, secret, seen);
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
        self.ctx.metrics.queue.ended(CONTROLLER, configuration::NAME, outcome);
        wait
    }

    fn tell(
        &mut self,
        ended: &Result<Looked, WebhookError>,
        secret: Option<&Secret>,
        seen: Option<&MutatingWebhookConfiguration>,
    ) {
        let is_silent = matches!(ended, Err(WebhookError::NotServing(_)));
        self.silent = if is_silent { self.silent.saturating_add(1) } else { 0 };
        let held_up = |why| Standing::held_up(self.ctx, secret, seen, why);
        let standing = match ended {
            Ok(Looked { in_force: true, wanted, .. }) => Standing::good(wanted.as_ref()),
            Ok(_) => held_up(HeldUp::certificate()),
            Err(error) => held_up(HeldUp::by(error, !is_silent || self.silent > PATIENCE)),
        };
        self.ctx.webhook.send_if_modified(|before| {
            let changed = *before != standing;
            *before = standing;
            changed
        });
    }
}

/// The percent of its life after which a certificate is replaced: all Meshes share the webhook, so the most careful one decides.
fn replaced_after(ctx: &Ctx) -> u8 {
    let percents = ctx.registry.all();
    let percents = percents.iter().map(|m| m.spec.certificates.rotation.after_percent);
    percents.min().unwrap_or_else(|| Rotation::default().after_percent).clamp(10, 80)
}

/// What a reconcile came to.
#[derive(Debug)]
pub struct Looked {
    /// How long to wait for the next.
    pub wait: Duration,
    /// The configuration as it should be; `None`: there should be none, or nobody knows yet.
    pub wanted: Option<MutatingWebhookConfiguration>,
    /// Whether it is.
    pub in_force: bool,
}

/// Certificate first, then the configuration that trusts it, when the server has proved it to a probe within `answered`.
///
/// # Errors
/// See [`WebhookError`].
pub async fn reconcile(
    ctx: &Ctx,
    secret: Option<&Secret>,
    seen: Option<&MutatingWebhookConfiguration>,
    now: SystemTime,
    answered: Duration,
) -> Result<Looked, WebhookError> {
    let known = Known { published: seen.map(published).unwrap_or_default(), memory: ctx.serving.state() };
    let percent = replaced_after(ctx);
    let state = match certificate::next(secret, &known, &ctx.config.webhook_host(), percent, now)? {
        (state, false) => state,
        (state, true) => {
            serving::write(&secrets(ctx), secret, &state).await?;
            // The watch brings what was written; the configuration follows when the server has taken it up.
            return Ok(Looked { wait: RETRY, wanted: None, in_force: false });
        }
    };
    let wanted = bring_about(ctx, &state, seen, now, answered).await?;
    let change = state.next_change(percent).duration_since(now).unwrap_or_default();
    Ok(Looked { wait: (change + Duration::from_secs(1)).min(RESYNC), wanted, in_force: true })
}

/// CAs that the configuration trusts, in all of its parts.
fn published(seen: &MutatingWebhookConfiguration) -> Vec<CertificateDer<'static>> {
    let in_all = configuration::published(seen);
    let bundle = seen.webhooks.iter().flatten().find_map(|w| w.client_config.ca_bundle.as_ref());
    let all = CertificateDer::pem_slice_iter(bundle.map_or(&[][..], |b| &b.0)).filter_map(Result::ok);
    all.filter(|der| in_all.contains(&fingerprint(der))).collect()
}

/// The configuration that is in force afterwards.
async fn bring_about(
    ctx: &Ctx,
    state: &ServingState,
    seen: Option<&MutatingWebhookConfiguration>,
    now: SystemTime,
    answered: Duration,
) -> Result<Option<MutatingWebhookConfiguration>, WebhookError> {
    let api = |error| WebhookError::Api { object: "MutatingWebhookConfiguration bowline-inject", error };
    let Some(wanted) = configuration::wanted(ctx, &state.bundle_pem(now)) else {
        if seen.is_some() {
            configuration::delete(&ctx.client).await.map_err(api)?;
        }
        return Ok(None);
    };
    if !seen.is_some_and(|seen| configuration::is_current(seen, &wanted)) {
        let (port, host) = (ctx.config.webhook_port, ctx.config.webhook_host());
        probe::probe(port, &host, &state.authorities(now), answered).await?;
        configuration::apply(&ctx.client, &wanted).await.map_err(api)?;
    }
    Ok(Some(wanted))
}
