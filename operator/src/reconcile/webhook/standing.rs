//! What the webhook's reconciler came to last, for the Meshes that depend on it: a Mesh whose namespaces are not asked about is not ready,
//! because their pods would start without a sidecar.

use std::collections::BTreeMap;

use bowline_crds::Mesh;
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{WebhookError, certificate::ServingState, configuration};
use crate::{
    reconcile::mesh::apply::failures::{Cause, words},
    runtime::context::Ctx,
};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// Which namespaces the API server asks about, by webhook; `None`: nobody has looked since this replica leads.
    in_force: Option<BTreeMap<String, LabelSelector>>,
    /// What holds up the rest.
    held_up: Option<HeldUp>,
}

/// What holds up the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldUp {
    /// What, and what to do.
    pub message: String,
    /// Whether somebody should look; otherwise it only takes a moment.
    pub is_failure: bool,
}

/// What a Mesh lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// Whether the API server asks about all of its namespaces nevertheless; `None`: nobody knows yet.
    pub in_force: Option<bool>,
    /// Whether somebody should look.
    pub is_failure: bool,
    /// What, and what to do.
    pub message: String,
}

impl Standing {
    /// This configuration is in force, and is as it should be.
    #[must_use]
    pub fn good(configuration: Option<&MutatingWebhookConfiguration>) -> Self {
        let webhooks = configuration.and_then(|c| c.webhooks.as_deref()).unwrap_or_default();
        Self { in_force: Some(selectors(webhooks.iter())), held_up: None }
    }

    /// The configuration is not as it should be; what of it that was seen serves its purpose.
    #[must_use]
    pub fn held_up(
        ctx: &Ctx,
        secret: Option<&Secret>,
        seen: Option<&MutatingWebhookConfiguration>,
        held_up: HeldUp,
    ) -> Self {
        Self { in_force: Some(serving(ctx, secret, seen)), held_up: Some(held_up) }
    }

    /// What `mesh` lacks; `None`: nothing.
    #[must_use]
    pub fn lack(&self, mesh: &Mesh, ctx: &Ctx) -> Option<Lack> {
        let Some(in_force) = &self.in_force else {
            let message = "the webhook's configuration has not been looked at yet".into();
            return Some(Lack { in_force: None, is_failure: false, message });
        };
        let mut wanted = configuration::selectors(mesh, ctx.registry.exempt()).into_iter();
        let covered = wanted.all(|(name, selector)| in_force.get(&name) == Some(&selector));
        match &self.held_up {
            Some(HeldUp { message, is_failure }) if !covered || *is_failure => {
                Some(Lack { in_force: Some(covered), is_failure: *is_failure, message: message.clone() })
            }
            None if !covered => {
                let message = "the webhook's configuration does not cover the Mesh's namespaces yet".into();
                Some(Lack { in_force: Some(false), is_failure: false, message })
            }
            _ => None,
        }
    }
}

impl HeldUp {
    /// The server's certificate is on its way.
    #[must_use]
    pub fn certificate() -> Self {
        Self { message: "the webhook's server gets its certificate".into(), is_failure: false }
    }

    /// By an error; whether that is a failure yet.
    #[must_use]
    pub fn by(error: &WebhookError, is_failure: bool) -> Self {
        let message = match error {
            WebhookError::Api { object, error } => format!("{object}: {}{}", words(error), Cause::of(error).remedy()),
            WebhookError::NotServing(_) => {
                format!("{error}: if that lasts, see the operator's log and who else has its port")
            }
            WebhookError::Certificate(_) => error.to_string(),
        };
        Self { message: format!("{message}; until it is in force pods may start without a sidecar"), is_failure }
    }
}

fn selectors<'a>(webhooks: impl Iterator<Item = &'a MutatingWebhook>) -> BTreeMap<String, LabelSelector> {
    webhooks.map(|w| (w.name.clone(), w.namespace_selector.clone().unwrap_or_default())).collect()
}

/// The webhooks of what was seen that are as they should be and trust the certificate that is served.
fn serving(
    ctx: &Ctx,
    secret: Option<&Secret>,
    seen: Option<&MutatingWebhookConfiguration>,
) -> BTreeMap<String, LabelSelector> {
    let Some(seen) = seen else { return BTreeMap::new() };
    let served = ServingState::read(secret).and_then(|state| state.leaf.root);
    let trusted = served.is_some_and(|root| configuration::published(seen).contains(&root));
    let Some(wanted) = configuration::wanted(ctx, &configuration::bundle(seen)).filter(|_| trusted) else {
        return BTreeMap::new();
    };
    let seen = seen.webhooks.as_deref().unwrap_or_default();
    selectors(wanted.webhooks.iter().flatten().filter(|w| seen.contains(w)))
}
