//! One reconcile of one Mesh, top to bottom.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bowline_crds::{Mesh, conditions::reasons, names::NEW_ROOT_ANNOTATION};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

use super::{
    apply::{self, ApplyError, failures::Cause},
    build::{Plan, build, config_map, mounts},
    deletion::{Stage, stage},
    fetch::{Observed, fetch},
    new_root, news,
    status::{self, Facts, Verdict},
};
use crate::{
    ca::{
        issuance::{
            restore,
            source::{self, SourceError},
            state::CaState,
            store,
        },
        rotation::{
            guard::SKEW_BOUND,
            policy::{AuthoritySource, Policy},
            risk::at_risk,
            trigger::next_due,
        },
        unix_time::{at, unix},
    },
    cluster::{
        cache::Cache,
        mesh::{
            invalid::InvalidSpec,
            validate::{Valid, validate},
        },
    },
    reconcile::{
        rotation::{
            ensure::{Desired, EnsureError, Ensured, Fallback, ensure},
            observe::Observer,
        },
        webhook,
    },
    runtime::{config::CA_SECRET, context::Ctx},
    telemetry::{MeshLabel, StepLabels},
};

/// Looked at again after this long, whatever else happens.
const RESYNC: Duration = Duration::from_secs(3600);
/// The same while a rotation is under way: who is waited for tells other replicas, not the API server.
const ROTATING: Duration = Duration::from_secs(1);
/// The same while a rotation waits for somebody for a while.
const ROTATING_SLOWLY: Duration = Duration::from_secs(5);
/// The same where the CA comes from somewhere else.
const SOURCE_RESYNC: Duration = Duration::from_secs(15);

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The spec asks for what cannot be.
    #[error(transparent)]
    Invalid(#[from] InvalidSpec),
    /// There is no CA.
    #[error(transparent)]
    Ca(#[from] EnsureError),
    /// The CA is to come from somewhere that offers none.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The webhook's configuration could not be brought in line.
    #[error("MutatingWebhookConfiguration: {0}")]
    Webhook(kube::Error),
}

impl ReconcileError {
    /// What the status says about it.
    fn verdict(&self, observed: &Observed, namespace: &str) -> Verdict {
        let message = self.to_string();
        let failed =
            |cause: Cause| Verdict::Failed { reason: cause.reason(), message: format!("{message}{}", cause.remedy()) };
        match self {
            Self::Invalid(_) => Verdict::Stalled { reason: reasons::INVALID_SPEC, message },
            Self::Ca(EnsureError::Lost(_)) => Verdict::Stalled {
                reason: reasons::CA_STATE_LOST,
                message: format!(
                    "{message}: restore Secret {namespace}/{CA_SECRET} from a backup, or annotate the Mesh with \
                     {NEW_ROOT_ANNOTATION}={} to have a new root made, which cuts off every workload that is running until its \
                     certificate is renewed",
                    new_root::lost(observed)[0]
                ),
            },
            Self::Source(SourceError::Taken { .. }) => {
                Verdict::Stalled { reason: reasons::NO_AUTHORITY_OFFERED, message }
            }
            Self::Source(SourceError::Secret { .. }) => {
                Verdict::Failed { reason: reasons::NO_AUTHORITY_OFFERED, message }
            }
            Self::Ca(EnsureError::Api(e)) | Self::Webhook(e) => failed(Cause::of(e)),
            Self::Apply(e) => failed(e.cause()),
            _ => failed(Cause::Other),
        }
    }

    /// When to look again at what somebody must mend; `None`: it is worth another try soon.
    fn next_look(&self) -> Option<Duration> {
        match self {
            Self::Invalid(_) | Self::Ca(EnsureError::Lost(_)) => Some(RESYNC),
            // Its owner may let go of it without anything else changing.
            Self::Source(SourceError::Taken { .. }) => Some(SOURCE_RESYNC),
            _ => None,
        }
    }
}

/// Reconciles one Mesh; when to look again.
///
/// # Errors
/// What is worth another try soon; status and events have told about it already.
pub async fn reconcile(
    ctx: &Ctx,
    config_maps: &Cache<ConfigMap>,
    mesh: Arc<Mesh>,
    now: SystemTime,
) -> Result<Duration, ReconcileError> {
    let observed = fetch(mesh, &ctx.registry, &ctx.namespaces.all(), &ctx.pods.all(), &config_maps.all());
    measure(ctx, &observed);
    match stage(&observed.mesh, &observed.pods) {
        Stage::Unprotected => {
            // The watch brings it back with the finalizer.
            let added = apply::add_finalizer(&ctx.client, &observed.mesh).await.map_err(ReconcileError::from);
            tell(ctx, &observed, added, now).await.map(|()| RESYNC)
        }
        // Whoever is still in it is owed the same care until they have left.
        stage @ (Stage::Wanted | Stage::Held) => keep(ctx, &observed, stage == Stage::Held, now).await,
        Stage::Leaving => leave(ctx, &observed, now).await,
        Stage::Gone => Ok(RESYNC),
    }
}

async fn keep(ctx: &Ctx, observed: &Observed, held: bool, now: SystemTime) -> Result<Duration, ReconcileError> {
    let name = observed.mesh.name_any();
    let remembered = ctx.authorities.state(&name);
    let outcome = bring_about(ctx, observed, remembered.as_deref(), now).await;
    let (ca, rotation, failure) = match &outcome {
        Ok(done) => (Some(&done.ensured.state), Some(&done.ensured), done.unwritten.as_ref()),
        Err(error) => (remembered.as_deref(), None, Some(error)),
    };
    let verdict = match (failure, &outcome) {
        (Some(error), _) => {
            tracing::warn!(mesh = name, %error, "the Mesh cannot be reconciled");
            error.verdict(observed, &ctx.config.namespace).while_held(held, observed)
        }
        (None, Ok(Done { source: Some(error), .. })) if !held => Verdict::NoSource(error.to_string()),
        (None, _) => {
            if held {
                Verdict::Held
            } else {
                Verdict::Done
            }
        }
    };
    let reported = report(ctx, observed, ca, rotation, &verdict, now).await;
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

/// Validate → source → CA → build → apply.
async fn bring_about(
    ctx: &Ctx,
    observed: &Observed,
    remembered: Option<&CaState>,
    now: SystemTime,
) -> Result<Done, ReconcileError> {
    let valid = validate(&observed.mesh)?;
    let external = valid.source.secret.is_some() || valid.source.cert_manager.is_some();
    let fetched = source::fetch(ctx, &valid.source, &valid.name, &valid.trust_domain, valid.issuer_lifetime, now).await;
    let (offered, source) = match fetched {
        Ok(offered) => (offered, None),
        Err(error) => (None, Some(error)),
    };
    let offer = match &offered {
        Some(offered) => offered.source(),
        None if external => AuthoritySource::Unavailable,
        None => AuthoritySource::BuiltIn,
    };
    let policy = policy(&valid, observed, offer);
    // Another replica may remember what this one does not.
    let waited = ctx.authorities.lost_for(&valid.name, now) >= restore::PATIENCE;
    let accept_new_root = waited && new_root::is_accepted(observed);
    let fallback = Fallback { state: remembered, published: policy.published_sequence > 0, accept_new_root };
    let witness = Observer { ctx, mesh: &valid.name, mounts: mounts(observed) };
    let desired = Desired { policy: &policy, offered: offered.as_ref() };
    let ensured = ensure(&store::api(ctx), desired, fallback, &witness, SystemTime::now).await;
    ctx.authorities.note(&valid.name, matches!(ensured, Err(EnsureError::Lost(_))), now);
    let ensured = match (ensured, source) {
        (Err(EnsureError::NoOffer), Some(error)) => return Err(ReconcileError::Source(error)),
        (ensured, source) => (ensured?, source),
    };
    let (ensured, source) = ensured;
    let control_ips = ctx.control_ips.borrow().clone().unwrap_or_default();
    let plan = build(observed, &valid, &ensured.state, &ctx.config, &control_ips);
    apply::events(&ctx.recorder, observed.mesh.as_ref(), &news::what_happened(ctx, &ensured, &plan)).await;
    // What cannot be written in one namespace holds up nothing else.
    let unwritten = apply::config_maps(&ctx.client, &plan).await.err().map(ReconcileError::from);
    abandon_old_source(ctx, observed, &valid, &ensured).await;
    Ok(Done { ensured, after_percent: valid.after_percent, external, source, unwritten })
}

/// A Certificate that is no longer the source goes once nothing depends on what it brought.
async fn abandon_old_source(ctx: &Ctx, observed: &Observed, valid: &Valid, ensured: &Ensured) {
    let was = observed.mesh.status.as_ref().and_then(|s| s.certificates.as_ref()).and_then(|c| c.source.as_ref());
    let Some(was) = was.filter(|was| **was != source::name(&valid.source)) else { return };
    if ensured.state.ledger.is_steady()
        && let Err(error) = source::abandon(ctx, &valid.name, was).await
    {
        tracing::warn!(mesh = valid.name, was, %error, "the Certificate of the former source cannot be deleted");
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

/// Status and events, each only when there is something new to say.
async fn report(
    ctx: &Ctx,
    observed: &Observed,
    ca: Option<&CaState>,
    rotation: Option<&Ensured>,
    verdict: &Verdict,
    now: SystemTime,
) -> Result<(), ApplyError> {
    let before = observed.mesh.status.as_ref();
    let lack = ctx.webhook.borrow().lack(&observed.mesh, ctx);
    let after = status::build(Facts { observed, ca, rotation, verdict, webhook: lack.as_ref(), now });
    measure_ca(ctx, observed, ca, rotation, now);
    if before == Some(&after) {
        return Ok(());
    }
    apply::status(&ctx.client, &observed.mesh.name_any(), &after).await?;
    apply::events(&ctx.recorder, observed.mesh.as_ref(), &news::news(before, &after)).await;
    Ok(())
}

/// Removes everything that the Mesh made, the finalizer last.
async fn leave(ctx: &Ctx, observed: &Observed, now: SystemTime) -> Result<Duration, ReconcileError> {
    let name = observed.mesh.name_any();
    let mut outcome = dismantle(ctx, observed).await;
    if outcome.is_ok() {
        tracing::info!(mesh = name, "everything that the Mesh made is gone");
        outcome = apply::remove_finalizer(&ctx.client, &observed.mesh).await.map_err(Into::into);
    }
    tell(ctx, observed, outcome, now).await?;
    ctx.metrics.forget(&name);
    Ok(RESYNC)
}

/// A failure before or after all else is told as any other.
async fn tell(
    ctx: &Ctx,
    observed: &Observed,
    outcome: Result<(), ReconcileError>,
    now: SystemTime,
) -> Result<(), ReconcileError> {
    if let Err(error) = &outcome
        && !matches!(error, ReconcileError::Apply(e) if e.is_stale())
    {
        let name = observed.mesh.name_any();
        tracing::warn!(mesh = name, %error, "the Mesh cannot be reconciled");
        let ca = ctx.authorities.state(&name);
        let verdict = error.verdict(observed, &ctx.config.namespace);
        report(ctx, observed, ca.as_deref(), None, &verdict, now).await?;
    }
    outcome
}

async fn dismantle(ctx: &Ctx, observed: &Observed) -> Result<(), ReconcileError> {
    webhook::configuration::withdraw(ctx).await.map_err(ReconcileError::Webhook)?;
    let was = observed.mesh.status.as_ref().and_then(|s| s.certificates.as_ref()).and_then(|c| c.source.as_ref());
    if let Some(was) = was {
        source::abandon(ctx, &observed.mesh.name_any(), was).await.map_err(EnsureError::Api)?;
    }
    let plan = Plan { apply: Vec::new(), delete: observed.config_maps.values().cloned().collect() };
    apply::config_maps(&ctx.client, &plan).await?;
    let api = store::api(ctx);
    let secret = api.get_opt(CA_SECRET).await.map_err(EnsureError::Api)?;
    let name = observed.mesh.name_any();
    let holds =
        secret.as_ref().and_then(|s| s.data.as_ref()).is_some_and(|d| d.contains_key(&CaState::secret_key(&name)));
    if holds {
        store::write(&api, secret, &name, None).await.map_err(EnsureError::Api)?;
    }
    Ok(())
}

fn measure_ca(ctx: &Ctx, observed: &Observed, ca: Option<&CaState>, rotation: Option<&Ensured>, now: SystemTime) {
    let label = MeshLabel { mesh: observed.mesh.name_any() };
    let metrics = &ctx.metrics.rotation;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let at_risk = ca.is_some_and(|ca| at_risk(&ca.ledger, unix(now)).is_some());
    metrics.at_risk.get_or_create(&label).set(at_risk.into());
    let steady = ca.is_none_or(|ca| ca.ledger.is_steady());
    let missing = rotation.map(|r| &r.missing).filter(|_| !steady);
    metrics.waiting_proxies.get_or_create(&label).set(missing.map_or(0, |m| count(m.proxies.len())));
    metrics.waiting_replicas.get_or_create(&label).set(missing.map_or(0, |m| count(m.replicas.len())));
    let began = ca.and_then(|ca| ca.ledger.rotation.as_ref()).filter(|_| !steady).map_or(0, |r| r.began);
    metrics.began.get_or_create(&label).set(i64::try_from(began).unwrap_or(i64::MAX));
    if let Some(evidence) = rotation.and_then(|r| r.evidence.as_ref()) {
        let skewed = evidence.proxies.iter().filter(|p| p.skew.is_some_and(|s| s.unsigned_abs() > SKEW_BOUND)).count();
        metrics.skewed.get_or_create(&label).set(count(skewed));
    }
    for write in rotation.iter().flat_map(|r| &r.writes) {
        if let Some(step) = news::step(write) {
            metrics.steps.get_or_create(&StepLabels { mesh: label.mesh.clone(), step }).inc();
        }
    }
}

fn measure(ctx: &Ctx, observed: &Observed) {
    let label = MeshLabel { mesh: observed.mesh.name_any() };
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    ctx.metrics.mesh_namespaces.get_or_create(&label).set(count(observed.members.len()));
    ctx.metrics.mesh_proxies.get_or_create(&label).set(observed.pods.total.into());
    ctx.metrics.mesh_proxies_ready.get_or_create(&label).set(observed.pods.ready.into());
    let missing = observed.pods.missing.len() + observed.pods.host_network.len();
    ctx.metrics.mesh_pods_without_sidecar.get_or_create(&label).set(count(missing));
}
