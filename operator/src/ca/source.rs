//! Where an issuing CA comes from that the operator does not make itself: a Secret that somebody else writes, or one that cert-manager
//! writes because of a Certificate that the operator keeps.

use std::time::{Duration, SystemTime};

use bowline_crds::{
    mesh::{CertManagerSource, Source},
    names::OWNER_LABEL,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::json;

use super::external::{ExternalError, Offered};
use crate::context::Ctx;

/// Field manager of the Certificate.
const MANAGER: &str = "bowline-ca";

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
) -> Result<Option<Offered>, SourceError> {
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
    let offered = Offered::read(secret.as_ref(), trust_domain, now);
    offered.map(Some).map_err(|fault| SourceError::Secret { namespace, name: name.clone(), fault })
}

fn certificates(ctx: &Ctx) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate");
    Api::namespaced_with(ctx.client.clone(), &ctx.config.namespace, &ApiResource::from_gvk(&kind))
}

/// cert-manager renews it by itself, at two thirds of its life; what it writes then is another rotation.
async fn keep_certificate(
    ctx: &Ctx,
    from: &CertManagerSource,
    mesh: &str,
    trust_domain: &str,
    issuer_lifetime: Duration,
) -> Result<(), SourceError> {
    let name = &from.secret_name;
    let certificate = json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {
            "name": name,
            "namespace": ctx.config.namespace,
            "labels": { OWNER_LABEL: mesh, "app.kubernetes.io/managed-by": crate::config::OPERATOR_NAME },
        },
        "spec": {
            "secretName": name,
            "isCA": true,
            "commonName": format!("{mesh} issuer"),
            "uris": [format!("spiffe://{trust_domain}")],
            "duration": format!("{}s", issuer_lifetime.as_secs()),
            "usages": ["cert sign", "crl sign"],
            "privateKey": { "algorithm": "ECDSA", "size": 256, "encoding": "PKCS8", "rotationPolicy": "Always" },
            "issuerRef": from.issuer_ref,
        }
    });
    let params = PatchParams::apply(MANAGER).force();
    let applied = certificates(ctx).patch(name, &params, &Patch::Apply(certificate)).await;
    applied.map(drop).map_err(|error| SourceError::Api {
        kind: "Certificate",
        namespace: ctx.config.namespace.clone(),
        name: name.clone(),
        error,
    })
}

/// Removes the Certificate of a source that is no longer in use; `was`: as status told of it.
///
/// # Errors
/// That of the API server; one that is gone is fine.
pub async fn abandon(ctx: &Ctx, was: &str) -> kube::Result<()> {
    let Some(name) = was.strip_prefix(CERT_MANAGER) else { return Ok(()) };
    match certificates(ctx).delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(s)) if s.code == 404 => Ok(()),
        ended => ended.map(drop),
    }
}
