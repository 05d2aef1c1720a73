//! One reconcile of one Mesh, top to bottom.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bowline_crds::Mesh;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::{Api, Client, ResourceExt, runtime::events::Recorder};
use tokio::sync::watch;

use super::{
    apply::{self, ApplyError},
    build::{Plan, build, mounts},
    config_map,
    error::{RESYNC, ReconcileError, SOURCE_RESYNC},
    events,
    fetch::{Observed, fetch},
    measure, new_root,
    status::{
        self,
        facts::{Facts, ReconcileOutcome},
    },
};
use crate::{
    ca::{
        Authorities,
        issuance::{
            restore,
            source::{self, ExternalSources},
            source_error::SourceError,
            state::CaState,
            store,
        },
        rotation::{
            policy::{AuthoritySource, Policy},
            trigger::next_due,
        },
        unix_time::{at, unix},
    },
    cluster::{
        cache::Cache,
        deletion::{Stage, stage, staying},
        membership::Registry,
        mesh::validate::{Valid, validate},
    },
    reconcile::{
        rotation::{
            ensure::{Desired, EnsureError, Ensured, Fallback, ensure},
            observe::{Observer, Replicas},
        },
        webhook::{self, status::WebhookStatus},
    },
    runtime::config::{CA_SECRET, Config},
    telemetry::Metrics,
};

/// Looked at again after this long while a rotation is under way: who is waited for tells other replicas, not the API server.
const ROTATING: Duration = Duration::from_secs(1);
/// The same while a rotation waits for somebody for a while.
const ROTATING_SLOWLY: Duration = Duration::from_secs(5);
/// Reconciles Meshes: what is read, what is written with, and who is asked.
pub struct MeshReconciler {
    /// Writes ConfigMaps and Meshes.
    pub client: Client,
    /// Secrets of the operator's namespace.
    pub secrets: Api<Secret>,
    /// Writes events.
    pub recorder: Recorder,
    /// What is measured.
    pub metrics: Metrics,
    /// Every Mesh, and which namespace belongs to which.
    pub registry: Registry,
    /// Every namespace.
    pub namespaces: Cache<Namespace>,
    /// Every pod.
    pub pods: Cache<Pod>,
    /// The trust ConfigMaps of all Meshes.
    pub config_maps: Cache<ConfigMap>,
    /// What this replica remembers of the Meshes' CAs.
    pub authorities: Authorities,
    /// Where a CA can come from that the operator does not make.
    pub sources: ExternalSources,
    /// Who is asked what proxies live with.
    pub replicas: Replicas,
    /// Addresses of the Service before the identity and control server; `None` until Services were listed.
    pub control_ips: watch::Receiver<Option<Vec<IpAddr>>>,
    /// Whether the API server asks about the Meshes' pods.
    pub webhook: watch::Receiver<WebhookStatus>,
    /// The operator's namespace, and where proxies find the control plane.
    pub config: Config,
}

impl MeshReconciler {
    /// Reconciles one Mesh; when to look again.
    ///
    /// # Errors
    /// What is worth another try soon; status and events have told about it already.
    pub async fn reconcile(&self, mesh: Arc<Mesh>, now: SystemTime) -> Result<Duration, ReconcileError> {
        let observed = fetch(mesh, &self.registry, &self.namespaces.all(), &self.pods.all(), &self.config_maps.all());
        measure::mesh(&self.metrics, &observed);
        match stage(&observed.mesh, !observed.pods.present.is_empty()) {
            Stage::Unprotected => {
                // The watch brings it back with the finalizer.
                let added = apply::add_finalizer(&self.client, &observed.mesh).await.map_err(ReconcileError::from);
                self.tell(&observed, added, now).await.map(|()| RESYNC)
            }
            // Whoever is still in it is owed the same care until they have left.
            stage @ (Stage::Wanted | Stage::Held) => self.keep(&observed, stage == Stage::Held, now).await,
            Stage::Leaving => self.leave(&observed, now).await,
            Stage::Gone => Ok(RESYNC),
        }
    }

    async fn keep(&self, observed: &Observed, held: bool, now: SystemTime) -> Result<Duration, ReconcileError> {
        let name = observed.mesh.name_any();
        let remembered = self.authorities.state(&name);
        let outcome = self.bring_about(observed, remembered.as_deref(), now).await;
        let (ca, rotation, failure) = match &outcome {
            Ok(done) => (Some(&done.ensured.state), Some(&done.ensured), done.unwritten.as_ref()),
            Err(error) => (remembered.as_deref(), None, Some(error)),
        };
        let ended = match (failure, &outcome) {
            (Some(error), _) => {
                tracing::warn!(mesh = name, %error, "the Mesh cannot be reconciled");
                error.outcome(observed, &self.config.namespace).while_held(held, observed)
            }
            (None, Ok(Done { source: Some(error), .. })) if !held => ReconcileOutcome::NoSource(error.to_string()),
            (None, _) => {
                if held {
                    ReconcileOutcome::Held
                } else {
                    ReconcileOutcome::Done
                }
            }
        };
        let reported = self.report(observed, ca, rotation, &ended, now).await;
        match outcome {
            Ok(Done { unwritten: Some(error), .. }) => Err(error),
            Ok(done) => {
                reported?;
                Ok(done.next_look(now))
            }
            Err(error) => match error.next_look() {
                None => Err(error),
                Some(_) if new_root::is_accepted(observed) => reported.map(|()| restore::PATIENCE).map_err(Into::into),
                Some(wait) => reported.map(|()| wait).map_err(Into::into),
            },
        }
    }

    /// Validate → source → CA → build → apply.
    async fn bring_about(
        &self,
        observed: &Observed,
        remembered: Option<&CaState>,
        now: SystemTime,
    ) -> Result<Done, ReconcileError> {
        let valid = validate(&observed.mesh)?;
        let external = valid.source.secret.is_some() || valid.source.cert_manager.is_some();
        let fetched =
            self.sources.fetch(&valid.source, &valid.name, &valid.trust_domain, valid.issuer_lifetime, now).await;
        let (offered, source) = match fetched {
            Ok(offered) => (offered, None),
            Err(error) => (None, Some(error)),
        };
        let source_now = match &offered {
            Some(offered) => offered.source(),
            None if external => AuthoritySource::Unavailable,
            None => AuthoritySource::BuiltIn,
        };
        let policy = policy(&valid, observed, source_now);
        // Another replica may remember what this one does not.
        let waited = self.authorities.lost_for(&valid.name, now) >= restore::PATIENCE;
        let accept_new_root = waited && new_root::is_accepted(observed);
        let fallback = Fallback { state: remembered, published: policy.published_sequence > 0, accept_new_root };
        let observer = Observer {
            client: &self.client,
            pods: &self.pods,
            replicas: &self.replicas,
            mesh: &valid.name,
            mounts: mounts(observed),
        };
        let desired = Desired { policy: &policy, external: offered.as_ref() };
        let ensured = ensure(&self.secrets, desired, fallback, &observer, SystemTime::now).await;
        self.authorities.note(&valid.name, matches!(ensured, Err(EnsureError::StateLost(_))), now);
        let ensured = match (ensured, source) {
            (Err(EnsureError::NoOffer), Some(error)) => return Err(ReconcileError::Source(error)),
            (ensured, source) => (ensured?, source),
        };
        let (ensured, source) = ensured;
        let control_ips = self.control_ips.borrow().clone().unwrap_or_default();
        let plan = build(observed, &valid, &ensured.state, &self.config, &control_ips);
        apply::events(
            &self.recorder,
            observed.mesh.as_ref(),
            &events::of_changes(&self.config.namespace, &ensured, &plan),
        )
        .await;
        // What cannot be written in one namespace holds up nothing else.
        let unwritten = apply::config_maps(&self.client, &plan).await.err().map(ReconcileError::from);
        self.abandon_old_source(observed, &valid, &ensured).await;
        Ok(Done { ensured, after_percent: valid.after_percent, external, source, unwritten })
    }

    /// A Certificate that is no longer the source goes once nothing depends on what it brought.
    async fn abandon_old_source(&self, observed: &Observed, valid: &Valid, ensured: &Ensured) {
        let was = observed.mesh.status.as_ref().and_then(|s| s.certificates.as_ref()).and_then(|c| c.source.as_ref());
        let Some(was) = was.filter(|was| **was != source::name(&valid.source)) else { return };
        if ensured.state.ledger.is_steady()
            && let Err(error) = self.sources.abandon(&valid.name, was).await
        {
            tracing::warn!(mesh = valid.name, was, %error, "the Certificate of the former source cannot be deleted");
        }
    }

    /// Status and events, each only when there is something new to say.
    async fn report(
        &self,
        observed: &Observed,
        ca: Option<&CaState>,
        rotation: Option<&Ensured>,
        ended: &ReconcileOutcome,
        now: SystemTime,
    ) -> Result<(), ApplyError> {
        let before = observed.mesh.status.as_ref();
        let not_ready = self.webhook.borrow().not_ready(&observed.mesh, self.registry.exempt());
        let after = status::build(Facts { observed, ca, rotation, outcome: ended, webhook: not_ready.as_ref(), now });
        measure::authority(&self.metrics, observed, ca, rotation, now);
        if before == Some(&after) {
            return Ok(());
        }
        apply::status(&self.client, &observed.mesh.name_any(), &after).await?;
        apply::events(&self.recorder, observed.mesh.as_ref(), &events::of_conditions(before, &after)).await;
        Ok(())
    }

    /// Removes everything that the Mesh made, the finalizer last.
    async fn leave(&self, observed: &Observed, now: SystemTime) -> Result<Duration, ReconcileError> {
        let name = observed.mesh.name_any();
        let mut outcome = self.dismantle(observed).await;
        if outcome.is_ok() {
            tracing::info!(mesh = name, "everything that the Mesh made is gone");
            outcome = apply::remove_finalizer(&self.client, &observed.mesh).await.map_err(Into::into);
        }
        self.tell(observed, outcome, now).await?;
        self.metrics.forget(&name);
        Ok(RESYNC)
    }

    /// A failure before or after all else is told as any other.
    async fn tell(
        &self,
        observed: &Observed,
        outcome: Result<(), ReconcileError>,
        now: SystemTime,
    ) -> Result<(), ReconcileError> {
        if let Err(error) = &outcome
            && !matches!(error, ReconcileError::Apply(e) if e.is_stale())
        {
            let name = observed.mesh.name_any();
            tracing::warn!(mesh = name, %error, "the Mesh cannot be reconciled");
            let ca = self.authorities.state(&name);
            let ended = error.outcome(observed, &self.config.namespace);
            self.report(observed, ca.as_deref(), None, &ended, now).await?;
        }
        outcome
    }

    async fn dismantle(&self, observed: &Observed) -> Result<(), ReconcileError> {
        webhook::apply::withdraw(
            &self.client,
            &staying(&self.registry, &self.pods),
            self.registry.exempt(),
            &self.config.namespace,
        )
        .await
        .map_err(ReconcileError::Webhook)?;
        let was = observed.mesh.status.as_ref().and_then(|s| s.certificates.as_ref()).and_then(|c| c.source.as_ref());
        if let Some(was) = was {
            self.sources.abandon(&observed.mesh.name_any(), was).await.map_err(EnsureError::Api)?;
        }
        let plan = Plan { apply: Vec::new(), delete: observed.config_maps.values().cloned().collect() };
        apply::config_maps(&self.client, &plan).await?;
        let secret = self.secrets.get_opt(CA_SECRET).await.map_err(EnsureError::Api)?;
        let name = observed.mesh.name_any();
        let holds =
            secret.as_ref().and_then(|s| s.data.as_ref()).is_some_and(|d| d.contains_key(&CaState::secret_key(&name)));
        if holds {
            store::write(&self.secrets, secret, &name, None).await.map_err(EnsureError::Api)?;
        }
        Ok(())
    }
}

/// What a reconcile came to.
struct Done {
    ensured: Ensured,
    after_percent: u8,
    /// The CA comes from somewhere else.
    external: bool,
    /// Why its source offers nothing.
    source: Option<SourceError>,
    /// What could not be written.
    unwritten: Option<ReconcileError>,
}

impl Done {
    /// When to look again.
    fn next_look(&self, now: SystemTime) -> Duration {
        let ledger = &self.ensured.state.ledger;
        if let Some(rotation) = ledger.rotation.as_ref().filter(|_| !ledger.is_steady()) {
            let long = !self.ensured.missing.is_empty() && unix(now) > rotation.began + 120;
            return if long { ROTATING_SLOWLY } else { ROTATING };
        }
        if ledger.rotation.is_some() || !self.ensured.writes.is_empty() {
            return ROTATING;
        }
        let due = next_due(ledger, self.after_percent).and_then(|due| at(due).duration_since(now).ok());
        let most = if self.external { SOURCE_RESYNC } else { RESYNC };
        due.map_or(most, |wait| (wait + Duration::from_secs(1)).min(most))
    }
}

fn policy(valid: &Valid, observed: &Observed, source: AuthoritySource) -> Policy {
    let status = observed.mesh.status.as_ref().and_then(|s| s.certificates.as_ref()).map(|c| c.bundle_sequence);
    let published = observed.config_maps.values().filter_map(|m| config_map::sequence(m)).chain(status).max();
    Policy {
        mesh: valid.name.clone(),
        trust_domain: valid.trust_domain.clone(),
        root_lifetime: valid.root_lifetime,
        issuer_lifetime: valid.issuer_lifetime,
        leaf_lifetime: valid.leaf_lifetime,
        after_percent: valid.after_percent,
        requests: valid.requests.clone(),
        distrust: valid.distrust.clone(),
        source,
        published_sequence: published.unwrap_or_default(),
    }
}
