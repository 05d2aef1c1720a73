//! Judges what the API server's schema and rules cannot, and what they would have refused had the CRD been current.

use std::time::Duration;

use bowline_crds::{
    Mesh, duration,
    mesh::{Source, rules},
};
use bowline_proxy::contract::{bootstrap::ports, spiffe::is_trust_domain};
use kube::ResourceExt;

use super::{
    invalid::InvalidSpec,
    resources,
    rotation::{Requests, distrust, requests},
    selector,
};

/// What a good Mesh asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Valid {
    /// Its name.
    pub name: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Life of roots.
    pub root_lifetime: Duration,
    /// Life of issuing CAs.
    pub issuer_lifetime: Duration,
    /// Life of leaves.
    pub leaf_lifetime: Duration,
    /// Percent of its life after which an authority is replaced.
    pub after_percent: u8,
    /// What users ask for, by field or annotation.
    pub requests: Requests,
    /// Fingerprints of roots whose key is compromised.
    pub distrust: Vec<String>,
    /// Where root and issuing CA come from.
    pub source: Source,
}

/// See the module.
///
/// # Errors
/// Names the field, what it holds and what it should hold.
pub fn validate(mesh: &Mesh) -> Result<Valid, InvalidSpec> {
    let name = mesh.name_any();
    if !is_label(&name) {
        return Err(InvalidSpec::Name(name));
    }
    let trust_domain = mesh.spec.trust_domain.clone();
    if !is_trust_domain(&trust_domain) {
        return Err(InvalidSpec::TrustDomain(trust_domain));
    }
    let certificates = &mesh.spec.certificates;
    let read = |field, text: &str| duration::parse(text).map_err(|error| InvalidSpec::Lifetime { field, error });
    let valid = Valid {
        name,
        trust_domain,
        root_lifetime: read("rootLifetime", &certificates.root_lifetime)?,
        issuer_lifetime: read("issuerLifetime", &certificates.issuer_lifetime)?,
        leaf_lifetime: read("leafLifetime", &certificates.leaf_lifetime)?,
        after_percent: certificates.rotation.after_percent,
        requests: requests(mesh),
        distrust: distrust(mesh)?,
        source: certificates.source.clone(),
    };
    if !(10..=80).contains(&valid.after_percent) {
        return Err(InvalidSpec::Percent(valid.after_percent));
    }
    if valid.source.secret.is_some() && valid.source.cert_manager.is_some() {
        return Err(InvalidSpec::Source);
    }
    if !(rules::MIN_LEAF..=rules::MAX_LEAF).contains(&valid.leaf_lifetime) {
        return Err(InvalidSpec::Lifetimes(rules::LEAF_RANGE));
    }
    if valid.leaf_lifetime >= valid.issuer_lifetime || valid.issuer_lifetime >= valid.root_lifetime {
        return Err(InvalidSpec::Lifetimes(rules::LIFETIME_ORDER));
    }
    let injection = &mesh.spec.injection;
    for (field, list) in
        [("skipInboundPorts", &injection.skip_inbound_ports), ("skipOutboundPorts", &injection.skip_outbound_ports)]
    {
        if let Some(port) = list.iter().find(|p| **p == 0 || ports::ALL.contains(p)) {
            return Err(InvalidSpec::Port { field, port: *port });
        }
    }
    if let Some(selector) = &injection.namespace_selector {
        selector::judge(selector)?;
    }
    if let Some(resources) = &mesh.spec.proxy.resources {
        resources::judge(resources)?;
    }
    if mesh.spec.proxy.image.as_deref().is_some_and(|image| !is_image(image)) {
        return Err(InvalidSpec::Image);
    }
    Ok(valid)
}

/// Whether the API server would take this image in a pod.
#[must_use]
pub fn is_image(image: &str) -> bool {
    !image.is_empty() && !image.contains([' ', '\t', '\n'])
}

fn is_label(name: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && ends(name.as_bytes().first())
        && ends(name.as_bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_crds::MeshSpec;
    use serde_json::json;

    fn judged(name: &str, spec: serde_json::Value) -> Result<Valid, InvalidSpec> {
        let spec: MeshSpec = serde_json::from_value(spec).unwrap();
        validate(&Mesh::new(name, spec))
    }

    #[test]
    fn an_empty_spec_is_a_good_mesh() {
        let valid = judged("default", json!({})).unwrap();
        assert_eq!(valid.trust_domain, "cluster.local");
        assert_eq!(valid.leaf_lifetime, Duration::from_secs(86_400));
    }

    #[test]
    fn what_cannot_be_is_named_with_the_remedy() {
        for (name, spec, expected) in [
            ("a.b", json!({}), "metadata.name"),
            ("a", json!({ "trustDomain": "a/b" }), "spec.trustDomain"),
            ("a", json!({ "certificates": { "leafLifetime": "0s" } }), "leafLifetime"),
            ("a", json!({ "certificates": { "leafLifetime": "soon" } }), "leafLifetime"),
            ("a", json!({ "certificates": { "issuerLifetime": "24h" } }), "issuerLifetime"),
            ("a", json!({ "certificates": { "rootLifetime": "24h" } }), "rootLifetime"),
            ("a", json!({ "injection": { "skipInboundPorts": [15_008] } }), "skipInboundPorts"),
            ("a", json!({ "injection": { "skipOutboundPorts": [0] } }), "skipOutboundPorts"),
            (
                "a",
                json!({ "injection": { "namespaceSelector": { "matchExpressions": [{ "key": "k", "operator": "Is" }] } } }),
                "namespaceSelector",
            ),
            (
                "a",
                json!({ "injection": { "namespaceSelector": { "matchExpressions": [{ "key": "k", "operator": "In" }] } } }),
                "namespaceSelector",
            ),
            ("a", json!({ "proxy": { "image": "a b" } }), "spec.proxy.image"),
            ("a", json!({ "proxy": { "image": "" } }), "spec.proxy.image"),
            ("a", json!({ "proxy": { "resources": { "limits": { "cpu": "-1" } } } }), "spec.proxy.resources"),
        ] {
            let error = judged(name, spec).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
