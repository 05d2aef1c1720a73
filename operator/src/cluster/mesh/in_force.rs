//! What of a Mesh is in force: its spec, or while that is invalid the last valid one, of which the status keeps what is needed.

use bowline_crds::{Mesh, mesh::MtlsMode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;

use super::{selector, validate::validate};

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

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_crds::MeshSpec;
    use serde_json::json;

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
