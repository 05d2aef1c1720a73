//! One reconcile of the webhook: certificate, probe, configuration.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bowline_crds::mesh::Rotation;
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{Pod, Secret},
};
use kube::{Api, Client};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{
    apply,
    certificate::{self, InUse},
    configuration,
    error::WebhookError,
    probe, store,
};
use crate::{
    ca::fingerprint::fingerprint,
    cluster::{cache::Cache, deletion::staying, membership::Registry},
    runtime::config::Config,
    serving::certificate::{ServingCertificate, state::ServingState},
};

/// Wait after a failure, and before another look at a server that does not answer yet.
pub(super) const RETRY: Duration = Duration::from_secs(2);
/// Looked at again after this long, whatever else happens.
const RESYNC: Duration = Duration::from_secs(3600);

/// What the webhook's certificate and configuration are made of.
pub struct WebhookReconciler {
    /// Writes the configuration.
    pub client: Client,
    /// Secrets of the operator's namespace.
    pub secrets: Api<Secret>,
    /// Every Mesh.
    pub registry: Registry,
    /// Every pod: they decide when a Mesh that is being deleted may go.
    pub pods: Cache<Pod>,
    /// What this replica serves.
    pub serving: Arc<ServingCertificate>,
    /// The operator's namespace, and the name and port of the webhook's server.
    pub config: Config,
    /// How long the server may take to answer a probe.
    pub probe_timeout: Duration,
}

/// The percent of its life after which a certificate is replaced: all Meshes share the webhook, so the most careful one decides.
fn replaced_after(registry: &Registry) -> u8 {
    let percents = registry.all();
    let percents = percents.iter().map(|m| m.spec.certificates.rotation.after_percent);
    percents.min().unwrap_or_else(|| Rotation::default().after_percent).clamp(10, 80)
}

/// What a reconcile came to.
#[derive(Debug)]
pub struct Reconciled {
    /// How long to wait for the next.
    pub wait: Duration,
    /// The configuration as it should be; `None`: there should be none, or nobody knows yet.
    pub wanted: Option<MutatingWebhookConfiguration>,
    /// Whether it is.
    pub in_force: bool,
}

impl WebhookReconciler {
    /// The configuration as it should be with these CAs; `None`: there should be none, since there is no Mesh.
    #[must_use]
    pub fn wanted(&self, ca_bundle: &str) -> Option<MutatingWebhookConfiguration> {
        let meshes = staying(&self.registry, &self.pods);
        configuration::build(&meshes, self.registry.exempt(), &self.config.namespace, ca_bundle)
    }

    /// Certificate first, then the configuration that trusts it, when the server has proved it to a probe.
    ///
    /// # Errors
    /// See [`WebhookError`].
    pub async fn reconcile(
        &self,
        secret: Option<&Secret>,
        seen: Option<&MutatingWebhookConfiguration>,
        now: SystemTime,
    ) -> Result<Reconciled, WebhookError> {
        let in_use = InUse { published: seen.map(published).unwrap_or_default(), memory: self.serving.state() };
        let percent = replaced_after(&self.registry);
        let state = match certificate::next(secret, &in_use, &self.config.webhook_host(), percent, now)? {
            (state, false) => state,
            (state, true) => {
                store::write(&self.secrets, secret, &state).await?;
                // The watch brings what was written; the configuration follows when the server has taken it up.
                return Ok(Reconciled { wait: RETRY, wanted: None, in_force: false });
            }
        };
        let wanted = self.bring_about(&state, seen, now).await?;
        let change = certificate::next_change(&state, percent).duration_since(now).unwrap_or_default();
        Ok(Reconciled { wait: (change + Duration::from_secs(1)).min(RESYNC), wanted, in_force: true })
    }

    /// The configuration that is in force afterwards.
    async fn bring_about(
        &self,
        state: &ServingState,
        seen: Option<&MutatingWebhookConfiguration>,
        now: SystemTime,
    ) -> Result<Option<MutatingWebhookConfiguration>, WebhookError> {
        let api = |error| WebhookError::Api { object: "MutatingWebhookConfiguration bowline-inject", error };
        let Some(wanted) = self.wanted(&state.bundle_pem(now)) else {
            if seen.is_some() {
                apply::delete(&self.client).await.map_err(api)?;
            }
            return Ok(None);
        };
        if !seen.is_some_and(|seen| configuration::is_current(seen, &wanted)) {
            let (port, host) = (self.config.webhook_port, self.config.webhook_host());
            probe::probe(port, &host, &state.authorities(now), self.probe_timeout).await?;
            apply::apply(&self.client, &wanted).await.map_err(api)?;
        }
        Ok(Some(wanted))
    }
}

/// CAs that the configuration trusts, in all of its parts.
fn published(seen: &MutatingWebhookConfiguration) -> Vec<CertificateDer<'static>> {
    let in_all = configuration::published(seen);
    let bundle = seen.webhooks.iter().flatten().find_map(|w| w.client_config.ca_bundle.as_ref());
    let all = CertificateDer::pem_slice_iter(bundle.map_or(&[][..], |b| &b.0)).filter_map(Result::ok);
    all.filter(|der| in_all.contains(&fingerprint(der))).collect()
}
