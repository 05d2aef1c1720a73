//! Judges what the API server's schema and rules cannot, and what they would have refused had the CRD been current.

pub mod resources;
pub mod selector;

use std::time::Duration;

use bowline_crds::{
    Mesh, duration,
    mesh::{MtlsMode, Source, rules},
    names::{ABORT_ROTATION_ANNOTATION, DISTRUST_ANNOTATION, ROTATE_ISSUER_ANNOTATION, ROTATE_ROOT_ANNOTATION},
};
use bowline_proxy::contract::{bootstrap::ports, spiffe::is_trust_domain};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{ResourceExt, core::Selector};

use crate::ca::ledger::Requests;

/// Why a Mesh cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// The name cannot be a DNS label.
    #[error("metadata.name {0:?} is no DNS label: make a Mesh with a name of 1 to 63 of a-z, 0-9 and '-'")]
    Name(String),
    /// The trust domain cannot be one.
    #[error("spec.trustDomain {0:?} is no trust domain: use 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain(String),
    /// A life span cannot be read.
    #[error("spec.certificates.{field}: {error}")]
    Lifetime {
        /// Which.
        field: &'static str,
        /// Why.
        error: duration::DurationError,
    },
    /// Life spans are too short, too long or in the wrong order.
    #[error("spec.certificates: {0}")]
    Lifetimes(&'static str),
    /// A fingerprint that is none.
    #[error(
        "{field} holds {found:?}: use SHA-256 fingerprints of 64 lower-case hex digits, as status.certificates.roots shows them"
    )]
    Fingerprint {
        /// Field or annotation.
        field: &'static str,
        /// What it holds.
        found: String,
    },
    /// Two sources at once.
    #[error("spec.certificates.source names a secret and certManager: name one of them")]
    Source,
    /// A share that is none.
    #[error("spec.certificates.rotation.afterPercent is {0}: use 10 to 80")]
    Percent(u8),
    /// The selector cannot be one.
    #[error("{0}")]
    Selector(String),
    /// No pod could have these resources.
    #[error("{0}")]
    Resources(&'static str),
    /// The image cannot be one.
    #[error("{}", rules::IMAGE)]
    Image,
    /// A port that cannot be left alone.
    #[error("spec.injection.{field} holds {port}: use 1 to 65535 without the proxy's own ports {:?}", ports::ALL)]
    Port {
        /// Which list.
        field: &'static str,
        /// The port.
        port: u16,
    },
}

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

/// The selector in force and ready to match: that of the spec, or while the spec is invalid the last valid one, which the status keeps.
/// Where it keeps none (an older operator wrote it) the spec's own remains, if it can be read.
#[must_use]
pub fn selector_in_force(mesh: &Mesh) -> Option<(&LabelSelector, Selector)> {
    let wanted = mesh.spec.injection.namespace_selector.as_ref();
    let last = mesh.status.as_ref().and_then(|s| s.namespaces.as_ref()).and_then(|n| n.selector.as_ref());
    let selector = if validate(mesh).is_ok() { wanted } else { last.or(wanted) };
    selector.and_then(|selector| Some((selector, selector::judge(selector).ok()?)))
}

/// The mode in force; see [`selector_in_force`].
#[must_use]
pub fn mode_in_force(mesh: &Mesh) -> MtlsMode {
    let before = mesh.status.as_ref().and_then(|s| s.mtls_mode);
    before.filter(|_| validate(mesh).is_err()).unwrap_or(mesh.spec.mtls.mode)
}

/// Longest text of a request that is kept, in characters.
const MAX_REQUEST: usize = 63;

fn requests(mesh: &Mesh) -> Requests {
    let rotation = &mesh.spec.certificates.rotation;
    let asked = |field: &Option<String>, annotation: &str| {
        let texts = field.iter().chain(mesh.annotations().get(annotation));
        texts.filter(|t| !t.is_empty()).map(|t| t.chars().take(MAX_REQUEST).collect()).collect()
    };
    Requests {
        root: asked(&rotation.root, ROTATE_ROOT_ANNOTATION),
        issuer: asked(&rotation.issuer, ROTATE_ISSUER_ANNOTATION),
        abort: asked(&rotation.abort, ABORT_ROTATION_ANNOTATION),
    }
}

/// Roots that users say are compromised, by field or annotation.
pub(super) fn distrust(mesh: &Mesh) -> Result<Vec<String>, InvalidSpec> {
    let annotated = mesh.annotations().get(DISTRUST_ANNOTATION).map_or("", String::as_str).split(',').map(str::trim);
    let annotated = annotated.filter(|t| !t.is_empty()).map(|t| (DISTRUST_ANNOTATION, t));
    let listed = mesh.spec.certificates.rotation.distrust.iter();
    let listed = listed.map(|t| ("spec.certificates.rotation.distrust", t.as_str()));
    let mut distrust = Vec::new();
    for (field, text) in annotated.chain(listed) {
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidSpec::Fingerprint { field, found: text.chars().take(80).collect() });
        }
        distrust.push(text.to_owned());
    }
    Ok(distrust)
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

    #[test]
    fn while_a_spec_is_invalid_the_last_valid_one_decides() {
        let spec: MeshSpec = serde_json::from_value(json!({
            "mtls": { "mode": "Permissive" },
            "injection": { "namespaceSelector": { "matchExpressions": [{ "key": "team", "operator": "in", "values": ["x"] }] } }
        }))
        .unwrap();
        let mut mesh = Mesh::new("a", spec);
        // Nothing was ever valid.
        assert!(selector_in_force(&mesh).is_none());
        let last = json!({ "matchLabels": { "team": "shop" } });
        let status = json!({ "mtlsMode": "Strict", "namespaces": { "count": 1, "names": [], "selector": last } });
        mesh.status = serde_json::from_value(status).unwrap();
        let (selector, _) = selector_in_force(&mesh).unwrap();
        assert_eq!(serde_json::to_value(selector).unwrap(), last);
        assert_eq!(mode_in_force(&mesh), MtlsMode::Strict);
        mesh.spec.injection.namespace_selector = None;
        assert!(selector_in_force(&mesh).is_none(), "a valid spec without selector has none");
        assert_eq!(mode_in_force(&mesh), MtlsMode::Permissive);
    }
}
