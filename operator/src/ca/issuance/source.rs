//! Where an issuing CA comes from that the operator does not make itself: a Secret that somebody else writes, or one that cert-manager
//! writes because of a Certificate that the operator keeps.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bowline_crds::{
    mesh::{CertManagerSource, Source},
    names::OWNER_LABEL,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::external::{ExternalAuthority, ExternalError};
use crate::{
    ca::fingerprint::fingerprint,
    reconcile::mesh::build::config_map::CONTENT_ANNOTATION,
    runtime::{config::OPERATOR_NAME, context::Ctx},
};

/// Field manager of the Certificate.
const MANAGER: &str = "bowline-ca";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Why a source offers nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The Secret cannot be used.
    #[error("Secret {namespace}/{name} offers no issuing CA: {fault}")]
    Secret {
        /// The operator's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        fault: ExternalError,
    },
    /// The Certificate is somebody else's.
    #[error(
        "Certificate {namespace}/{name} belongs to {owner}: choose another \
         spec.certificates.source.certManager.secretName, for which the operator's service account needs Roles of yours{}",
        if *by_hand { ", or delete that Certificate if nobody needs it" } else { "" }
    )]
    Taken {
        /// The operator's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Whose it is.
        owner: String,
        /// No Mesh's.
        by_hand: bool,
    },
    /// The API server refused, perhaps because a role is missing.
    #[error("{kind} {namespace}/{name}: {error}{}", remedy(kind, name, error))]
    Api {
        /// `Secret` or `Certificate`.
        kind: &'static str,
        /// The operator's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        error: kube::Error,
    },
}

fn remedy(kind: &str, name: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(s) if s.code == 403 => format!(
            "; the operator's role covers {kind} bowline-issuer only: give its service account a Role for {kind} {name}"
        ),
        kube::Error::Api(s) if s.code == 404 && kind == "Certificate" => {
            "; install cert-manager, or choose another source".into()
        }
        _ => String::new(),
    }
}

/// As status tells of it: `BuiltIn`, `Secret/NAME` or `CertManager/NAME`.
#[must_use]
pub fn name(source: &Source) -> String {
    match source {
        Source { secret: Some(secret), .. } => format!("Secret/{}", secret.name),
        Source { cert_manager: Some(from), .. } => format!("{CERT_MANAGER}{}", from.secret_name),
        Source { .. } => "BuiltIn".into(),
    }
}

const CERT_MANAGER: &str = "CertManager/";

/// What the source offers; `None`: the operator makes its own.
///
/// # Errors
/// See [`SourceError`].
pub async fn fetch(
    ctx: &Ctx,
    source: &Source,
    mesh: &str,
    trust_domain: &str,
    issuer_lifetime: Duration,
    now: SystemTime,
) -> Result<Option<ExternalAuthority>, SourceError> {
    let name = match source {
        Source { secret: Some(secret), .. } => &secret.name,
        Source { cert_manager: Some(from), .. } => {
            keep_certificate(ctx, from, mesh, trust_domain, issuer_lifetime).await?;
            &from.secret_name
        }
        Source { .. } => return Ok(None),
    };
    let namespace = ctx.config.namespace.clone();
    let api = Api::<Secret>::namespaced(ctx.client.clone(), &namespace);
    let secret = api.get_opt(name).await.map_err(|error| SourceError::Api {
        kind: "Secret",
        namespace: namespace.clone(),
        name: name.clone(),
        error,
    })?;
    let offered = ExternalAuthority::read(secret.as_ref(), trust_domain, now);
    offered.map(Some).map_err(|fault| SourceError::Secret { namespace, name: name.clone(), fault })
}

fn certificates(ctx: &Ctx) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate");
    Api::namespaced_with(ctx.client.clone(), &ctx.config.namespace, &ApiResource::from_gvk(&kind))
}

/// cert-manager renews it by itself, at two thirds of its life; what it writes then is another rotation. Written only when it is not as
/// wanted: two Meshes that wrote over each other's would have a new issuing CA signed every time.
async fn keep_certificate(
    ctx: &Ctx,
    from: &CertManagerSource,
    mesh: &str,
    trust_domain: &str,
    issuer_lifetime: Duration,
) -> Result<(), SourceError> {
    let name = &from.secret_name;
    let namespace = &ctx.config.namespace;
    let failed =
        |error| SourceError::Api { kind: "Certificate", namespace: namespace.clone(), name: name.clone(), error };
    let api = certificates(ctx);
    let seen = api.get_opt(name).await.map_err(failed)?;
    let wanted = certificate(namespace, from, mesh, trust_domain, issuer_lifetime);
    if let Some(seen) = &seen {
        match owner(seen, mesh, |other| ctx.registry.get(other).is_some()) {
            Owner::This if is_current(seen, &wanted) => return Ok(()),
            Owner::This => {}
            Owner::Mesh(other) => {
                let owner = format!("Mesh {other}");
                return Err(SourceError::Taken {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    owner,
                    by_hand: false,
                });
            }
            Owner::Stranger => {
                let owner = "somebody else than the operator".to_owned();
                return Err(SourceError::Taken {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    owner,
                    by_hand: true,
                });
            }
        }
    }
    api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(wanted)).await.map(drop).map_err(failed)
}

fn certificate(
    namespace: &str,
    from: &CertManagerSource,
    mesh: &str,
    trust_domain: &str,
    issuer_lifetime: Duration,
) -> Value {
    let spec = json!({
        "secretName": from.secret_name,
        "isCA": true,
        "commonName": format!("{mesh} issuer"),
        "uris": [format!("spiffe://{trust_domain}")],
        "duration": format!("{}s", issuer_lifetime.as_secs()),
        "usages": ["cert sign", "crl sign"],
        "privateKey": { "algorithm": "ECDSA", "size": 256, "encoding": "PKCS8", "rotationPolicy": "Always" },
        "issuerRef": from.issuer_ref,
    });
    json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {
            "name": from.secret_name,
            "namespace": namespace,
            "labels": { OWNER_LABEL: mesh, MANAGED_BY: OPERATOR_NAME },
            // Tells that something is wanted no longer; what others add to the object does not matter.
            "annotations": { CONTENT_ANNOTATION: &fingerprint(spec.to_string().as_bytes())[..16] },
        },
        "spec": spec,
    })
}

/// Whose a Certificate is.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// This Mesh's, or nobody's any more.
    This,
    /// Another Mesh's.
    Mesh(String),
    /// The operator did not make it.
    Stranger,
}

fn owner(seen: &DynamicObject, mesh: &str, exists: impl Fn(&str) -> bool) -> Owner {
    match seen.labels().get(OWNER_LABEL) {
        Some(other) if other != mesh && exists(other) => Owner::Mesh(other.clone()),
        Some(_) => Owner::This,
        // Somebody removed a label.
        None if seen.annotations().contains_key(CONTENT_ANNOTATION) => Owner::This,
        None if seen.labels().get(MANAGED_BY).is_some_and(|by| by == OPERATOR_NAME) => Owner::This,
        None => Owner::Stranger,
    }
}

/// Whether everything that is wanted is there.
fn is_current(seen: &DynamicObject, wanted: &Value) -> bool {
    let of = |map: &BTreeMap<String, String>, field: &str| {
        let wanted = wanted["metadata"][field].as_object().into_iter().flatten();
        wanted.into_iter().all(|(key, value)| map.get(key).map(String::as_str) == value.as_str())
    };
    of(seen.labels(), "labels")
        && of(seen.annotations(), "annotations")
        && contains(&seen.data["spec"], &wanted["spec"])
}

/// Whether one holds all of the other.
fn contains(all: &Value, some: &Value) -> bool {
    match (all, some) {
        (Value::Object(all), Value::Object(some)) => {
            some.iter().all(|(key, some)| all.get(key).is_some_and(|all| contains(all, some)))
        }
        (all, some) => all == some,
    }
}

/// Removes the Certificate of a source that is no longer in use, unless another Mesh has it; `was`: as status told of it.
///
/// # Errors
/// That of the API server; one that is gone is fine.
pub async fn abandon(ctx: &Ctx, mesh: &str, was: &str) -> kube::Result<()> {
    let Some(name) = was.strip_prefix(CERT_MANAGER) else { return Ok(()) };
    let api = certificates(ctx);
    let Some(seen) = api.get_opt(name).await? else { return Ok(()) };
    if seen.labels().get(OWNER_LABEL).is_none_or(|owner| owner != mesh) {
        return Ok(());
    }
    let preconditions = Preconditions { uid: seen.uid(), resource_version: seen.resource_version() };
    match api.delete(name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await {
        Err(kube::Error::Api(s)) if s.code == 404 => Ok(()),
        ended => ended.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(metadata: Value) -> DynamicObject {
        serde_json::from_value(json!({ "metadata": metadata, "spec": {} })).unwrap()
    }

    #[test]
    fn a_certificate_has_one_owner() {
        let exists = |mesh: &str| mesh == "a" || mesh == "b";
        let of = |mesh: &str| seen(json!({ "labels": { OWNER_LABEL: mesh } }));
        assert_eq!(owner(&of("a"), "a", exists), Owner::This);
        assert_eq!(owner(&of("b"), "a", exists), Owner::Mesh("b".into()));
        assert_eq!(owner(&of("gone"), "a", exists), Owner::This);
        assert_eq!(owner(&seen(json!({})), "a", exists), Owner::Stranger);
        assert_eq!(owner(&seen(json!({ "annotations": { CONTENT_ANNOTATION: "x" } })), "a", exists), Owner::This);
    }

    #[test]
    fn what_others_add_does_not_matter() {
        let all = json!({ "a": { "b": 1, "more": 2 }, "more": [] });
        assert!(contains(&all, &json!({ "a": { "b": 1 } })));
        assert!(!contains(&all, &json!({ "a": { "b": 2 } })));
        assert!(!contains(&all, &json!({ "a": { "c": 1 } })));
    }
}
