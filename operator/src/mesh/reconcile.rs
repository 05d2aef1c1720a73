//! One reconcile of one Mesh, top to bottom.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bowline_crds::{Mesh, conditions::reasons, names::NEW_ROOT_ANNOTATION};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

use super::{
    apply::{self, ApplyError},
    build::{Plan, build, config_map},
    deletion::{Stage, stage},
    fetch::{Observed, fetch},
    status::{self, Facts, News, Verdict},
    validate::{InvalidSpec, Valid, validate},
};
use crate::{
    ca::{
        decide::{Policy, Write, next_change},
        ensure::{EnsureError, Ensured, Evidence, ensure},
        state::CaState,
        store,
    },
    cache::Cache,
    config::CA_SECRET,
    context::Ctx,
    telemetry::MeshLabel,
    webhook,
};

/// Looked at again after this long, whatever else happens.
const RESYNC: Duration = Duration::from_secs(3600);

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The spec asks for what cannot be.
    #[error(transparent)]
    Invalid(#[from] InvalidSpec),
    /// There is no CA.
    #[error(transparent)]
    Ca(#[from] EnsureError),
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The webhook's configuration could not be brought in line.
    #[error("MutatingWebhookConfiguration: {0}")]
    Webhook(kube::Error),
}

impl ReconcileError {
    /// What the status says about it.
    fn verdict(&self, namespace: &str) -> Verdict {
        let message = self.to_string();
        match self {
            Self::Invalid(_) => Verdict::Stalled { reason: reasons::INVALID_SPEC, message },
            Self::Ca(EnsureError::Lost(_)) => Verdict::Stalled {
                reason: reasons::CA_STATE_LOST,
                message: format!(
                    "{message}: restore Secret {namespace}/{CA_SECRET} from a backup, or annotate the Mesh with \
                     {NEW_ROOT_ANNOTATION}=true to have a new root made, which cuts off every workload that is running until \
                     its certificate is renewed"
                ),
            },
            Self::Ca(EnsureError::Api(e)) | Self::Webhook(e) if is_forbidden(e) => forbidden(message),
            Self::Apply(e) if e.is_forbidden() => forbidden(message),
            _ => Verdict::Failed { reason: reasons::API_ERROR, message },
        }
    }

    /// Whether trying again soon makes sense.
    fn is_transient(&self) -> bool {
        !matches!(self, Self::Invalid(_) | Self::Ca(EnsureError::Lost(_)))
    }
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

fn forbidden(message: String) -> Verdict {
    let message = format!("{message}: install the operator's roles as they are shipped");
    Verdict::Failed { reason: reasons::FORBIDDEN, message }
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
            apply::add_finalizer(&ctx.client, &observed.mesh).await?;
            Ok(RESYNC)
        }
        Stage::Wanted => wanted(ctx, &observed, now).await,
        Stage::Held => {
            let ca = ctx.authorities.state(&observed.mesh.name_any());
            report(ctx, &observed, ca.as_deref(), &Verdict::Held, now).await?;
            Ok(RESYNC)
        }
        Stage::Leaving => leave(ctx, &observed, now).await,
        Stage::Gone => Ok(RESYNC),
    }
}

async fn wanted(ctx: &Ctx, observed: &Observed, now: SystemTime) -> Result<Duration, ReconcileError> {
    let name = observed.mesh.name_any();
    let remembered = ctx.authorities.state(&name);
    let outcome = bring_about(ctx, observed, remembered.as_deref(), now).await;
    let (ca, verdict) = match &outcome {
        Ok(ca) => (Some(ca), Verdict::Done),
        Err(error) => {
            tracing::warn!(mesh = name, %error, "the Mesh cannot be reconciled");
            (remembered.as_deref(), error.verdict(&ctx.config.namespace))
        }
    };
    let reported = report(ctx, observed, ca, &verdict, now).await;
    match outcome {
        Ok(ca) => {
            reported?;
            let change = next_change(&ca).and_then(|at| at.duration_since(now).ok());
            Ok(change.map_or(RESYNC, |wait| (wait + Duration::from_secs(1)).min(RESYNC)))
        }
        Err(error) if error.is_transient() => Err(error),
        Err(_) => reported.map(|()| RESYNC).map_err(Into::into),
    }
}

/// Validate → CA → build → apply.
async fn bring_about(
    ctx: &Ctx,
    observed: &Observed,
    remembered: Option<&CaState>,
    now: SystemTime,
) -> Result<CaState, ReconcileError> {
    let valid = validate(&observed.mesh)?;
    let policy = policy(&valid, observed);
    let accept_new_root = observed.mesh.annotations().get(NEW_ROOT_ANNOTATION).is_some_and(|v| v == "true");
    let evidence = Evidence { memory: remembered, published: policy.published_sequence > 0, accept_new_root };
    let ensured = ensure(&store::api(ctx), &policy, evidence, now).await?;
    let plan = build(observed, &valid, &ensured.state, &ctx.config);
    apply::events(&ctx.recorder, observed.mesh.as_ref(), &what_happened(ctx, &ensured, &plan)).await;
    apply::config_maps(&ctx.client, &plan).await?;
    Ok(ensured.state)
}

fn policy(valid: &Valid, observed: &Observed) -> Policy {
    let status = observed.mesh.status.as_ref().and_then(|s| s.certificates.as_ref()).map(|c| c.bundle_sequence);
    let published = observed.config_maps.values().filter_map(|m| config_map::sequence(m)).chain(status).max();
    Policy {
        mesh: valid.name.clone(),
        trust_domain: valid.trust_domain.clone(),
        root_lifetime: valid.root_lifetime,
        issuer_lifetime: valid.issuer_lifetime,
        leaf_lifetime: valid.leaf_lifetime,
        published_sequence: published.unwrap_or_default(),
    }
}

/// Events about what was done, as opposed to how it stands now.
fn what_happened(ctx: &Ctx, ensured: &Ensured, plan: &Plan) -> Vec<News> {
    let mut news = Vec::new();
    if let Some(damage) = &ensured.restored {
        let message = format!(
            "Secret {}/{CA_SECRET} was damaged ({damage}) and has been put back from memory: keep others from writing to it",
            ctx.config.namespace
        );
        news.push(News { warning: true, reason: reasons::CA_STATE_RESTORED.into(), message });
    }
    for write in &ensured.writes {
        let message = match write {
            Write::FirstRoot => "the first root and issuing CA were made",
            Write::Issuer { .. } => "a new issuing CA was made; the previous one no longer signs",
            Write::DropIssuer { .. } | Write::LeafSeconds(_) | Write::Sequence(_) => continue,
        };
        news.push(News { warning: false, reason: reasons::AUTHORITY_CREATED.into(), message: message.into() });
    }
    for change in plan.apply.iter().filter(|c| c.repairs) {
        let map = &change.object;
        let message = format!(
            "ConfigMap {}/{} had been edited and was put back: it belongs to the operator, which keeps it as the Mesh says",
            map.namespace().unwrap_or_default(),
            map.name_any()
        );
        news.push(News { warning: true, reason: reasons::CONFIG_MAP_REPAIRED.into(), message });
    }
    news
}

/// Status and events, each only when there is something new to say.
async fn report(
    ctx: &Ctx,
    observed: &Observed,
    ca: Option<&CaState>,
    verdict: &Verdict,
    now: SystemTime,
) -> Result<(), ApplyError> {
    let before = observed.mesh.status.as_ref();
    let after = status::build(Facts { observed, ca, verdict, now });
    if before == Some(&after) {
        return Ok(());
    }
    apply::status(&ctx.client, &observed.mesh.name_any(), &after).await?;
    apply::events(&ctx.recorder, observed.mesh.as_ref(), &status::news(before, &after)).await;
    Ok(())
}

/// Removes everything that the Mesh made, the finalizer last.
async fn leave(ctx: &Ctx, observed: &Observed, now: SystemTime) -> Result<Duration, ReconcileError> {
    let name = observed.mesh.name_any();
    let outcome = dismantle(ctx, observed).await;
    if let Err(error) = outcome {
        tracing::warn!(mesh = name, %error, "the Mesh cannot be removed");
        let ca = ctx.authorities.state(&name);
        report(ctx, observed, ca.as_deref(), &error.verdict(&ctx.config.namespace), now).await?;
        return Err(error);
    }
    tracing::info!(mesh = name, "everything that the Mesh made is gone");
    apply::remove_finalizer(&ctx.client, &observed.mesh).await?;
    unmeasure(ctx, &name);
    Ok(RESYNC)
}

async fn dismantle(ctx: &Ctx, observed: &Observed) -> Result<(), ReconcileError> {
    webhook::configuration::withdraw(ctx).await.map_err(ReconcileError::Webhook)?;
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

fn measure(ctx: &Ctx, observed: &Observed) {
    let label = MeshLabel { mesh: observed.mesh.name_any() };
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    ctx.metrics.mesh_namespaces.get_or_create(&label).set(count(observed.members.len()));
    ctx.metrics.mesh_proxies.get_or_create(&label).set(observed.pods.total.into());
    ctx.metrics.mesh_proxies_ready.get_or_create(&label).set(observed.pods.ready.into());
    ctx.metrics.mesh_pods_without_sidecar.get_or_create(&label).set(count(observed.pods.missing.len()));
}

fn unmeasure(ctx: &Ctx, mesh: &str) {
    let label = MeshLabel { mesh: mesh.into() };
    ctx.metrics.mesh_namespaces.remove(&label);
    ctx.metrics.mesh_proxies.remove(&label);
    ctx.metrics.mesh_proxies_ready.remove(&label);
    ctx.metrics.mesh_pods_without_sidecar.remove(&label);
}
