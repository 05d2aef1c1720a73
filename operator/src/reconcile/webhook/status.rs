//! What the webhook's reconciler came to last, for the Meshes that depend on it: a Mesh whose namespaces are not asked about is not ready,
//! because their pods would start without a sidecar.

use std::collections::{BTreeMap, BTreeSet};

use bowline_crds::Mesh;
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{configuration, error::WebhookError};
use crate::{
    reconcile::api_error::{Cause, words},
    serving::certificate::state::ServingState,
};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WebhookStatus {
    /// Which namespaces the API server asks about, by webhook; `None`: nobody has looked since this replica leads.
    in_force: Option<BTreeMap<String, LabelSelector>>,
    /// What keeps the rest from being in force.
    blocked: Option<Blocked>,
}

/// What keeps the configuration from being in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// What, and what to do.
    pub message: String,
    /// Whether somebody should look; otherwise it only takes a moment.
    pub is_failure: bool,
}

/// Why the webhook is not ready for a Mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    /// Whether the API server asks about all of its namespaces nevertheless; `None`: nobody knows yet.
    pub in_force: Option<bool>,
    /// Whether somebody should look.
    pub is_failure: bool,
    /// What, and what to do.
    pub message: String,
}

impl WebhookStatus {
    /// This configuration is in force, and is as it should be.
    #[must_use]
    pub fn good(configuration: Option<&MutatingWebhookConfiguration>) -> Self {
        let webhooks = configuration.and_then(|c| c.webhooks.as_deref()).unwrap_or_default();
        Self { in_force: Some(selectors(webhooks.iter())), blocked: None }
    }

    /// The configuration is not as it should be; what of it that was seen is as it is `wanted` with the CAs that it trusts now serves its
    /// purpose.
    #[must_use]
    pub fn blocked(
        wanted: Option<&MutatingWebhookConfiguration>,
        secret: Option<&Secret>,
        seen: Option<&MutatingWebhookConfiguration>,
        blocked: Blocked,
    ) -> Self {
        Self { in_force: Some(serving(wanted, secret, seen)), blocked: Some(blocked) }
    }

    /// Why the webhook is not ready for `mesh`; `None`: it is.
    #[must_use]
    pub fn not_ready(&self, mesh: &Mesh, exempt: &BTreeSet<String>) -> Option<NotReady> {
        let Some(in_force) = &self.in_force else {
            let message = "the webhook's configuration has not been looked at yet".into();
            return Some(NotReady { in_force: None, is_failure: false, message });
        };
        let mut wanted = configuration::selectors(mesh, exempt).into_iter();
        let covered = wanted.all(|(name, selector)| in_force.get(&name) == Some(&selector));
        match &self.blocked {
            Some(Blocked { message, is_failure }) if !covered || *is_failure => {
                Some(NotReady { in_force: Some(covered), is_failure: *is_failure, message: message.clone() })
            }
            None if !covered => {
                let message = "the webhook's configuration does not cover the Mesh's namespaces yet".into();
                Some(NotReady { in_force: Some(false), is_failure: false, message })
            }
            _ => None,
        }
    }
}

impl Blocked {
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
    wanted: Option<&MutatingWebhookConfiguration>,
    secret: Option<&Secret>,
    seen: Option<&MutatingWebhookConfiguration>,
) -> BTreeMap<String, LabelSelector> {
    let Some(seen) = seen else { return BTreeMap::new() };
    let served = ServingState::read(secret).and_then(|state| state.leaf.root);
    let trusted = served.is_some_and(|root| configuration::published(seen).contains(&root));
    let Some(wanted) = wanted.filter(|_| trusted) else {
        return BTreeMap::new();
    };
    let seen = seen.webhooks.as_deref().unwrap_or_default();
    selectors(wanted.webhooks.iter().flatten().filter(|w| seen.contains(w)))
}
