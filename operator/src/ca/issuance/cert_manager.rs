//! Keeps the Certificate by which cert-manager makes an issuing CA.

use std::{collections::BTreeMap, time::Duration};

use bowline_crds::{mesh::CertManagerSource, names::OWNER_LABEL};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::source_error::SourceError;
use crate::{
    ca::fingerprint::fingerprint,
    cluster::membership::Registry,
    runtime::config::{CONTENT_ANNOTATION, OPERATOR_NAME},
};

/// Field manager of the Certificate.
const MANAGER: &str = "bowline-ca";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Certificates of cert-manager in the operator's namespace.
#[derive(Clone)]
pub struct Certificates {
    api: Api<DynamicObject>,
    namespace: String,
    registry: Registry,
}

impl Certificates {
    /// In `namespace`; a Certificate of a Mesh that is not in `registry` is nobody's.
    #[must_use]
    pub fn new(client: Client, namespace: &str, registry: Registry) -> Self {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate"));
        Self { api: Api::namespaced_with(client, namespace, &kind), namespace: namespace.into(), registry }
    }

    /// cert-manager renews it by itself, at two thirds of its life; what it writes then is another rotation. Written only when it is not as
    /// wanted: two Meshes that wrote over each other's would have a new issuing CA signed every time.
    pub(super) async fn keep(
        &self,
        from: &CertManagerSource,
        mesh: &str,
        trust_domain: &str,
        issuer_lifetime: Duration,
    ) -> Result<(), SourceError> {
        let name = &from.secret_name;
        let namespace = &self.namespace;
        let failed =
            |error| SourceError::Api { kind: "Certificate", namespace: namespace.clone(), name: name.clone(), error };
        let seen = self.api.get_opt(name).await.map_err(failed)?;
        let wanted = certificate(namespace, from, mesh, trust_domain, issuer_lifetime);
        if let Some(seen) = &seen {
            match owner(seen, mesh, |other| self.registry.get(other).is_some()) {
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
        self.api
            .patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(wanted))
            .await
            .map(drop)
            .map_err(failed)
    }

    /// Removes the Certificate of that name, unless another Mesh has it.
    ///
    /// # Errors
    /// That of the API server; one that is gone is fine.
    pub(super) async fn remove(&self, mesh: &str, name: &str) -> kube::Result<()> {
        let Some(seen) = self.api.get_opt(name).await? else { return Ok(()) };
        if seen.labels().get(OWNER_LABEL).is_none_or(|owner| owner != mesh) {
            return Ok(());
        }
        let preconditions = Preconditions { uid: seen.uid(), resource_version: seen.resource_version() };
        match self
            .api
            .delete(name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() })
            .await
        {
            Err(kube::Error::Api(s)) if s.code == 404 => Ok(()),
            ended => ended.map(drop),
        }
    }
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
