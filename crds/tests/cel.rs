//! Truth tables of the rules that the API server applies to a Mesh.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bowline_crds::{Mesh, MeshSpec};
use kube::core::cel::{validate_cel, validate_cel_update};
use serde_json::{Value, json};

fn mesh(name: &str, spec: Value) -> Mesh {
    let spec: MeshSpec = serde_json::from_value(spec).expect("spec");
    Mesh::new(name, spec)
}

/// Complaints about a new Mesh, in one text; empty: none.
fn complaints(spec: Value) -> String {
    validate_cel(&mesh("default", spec)).err().map(|e| e.to_string()).unwrap_or_default()
}

/// A spec whose selector has this expression.
fn selector(expression: Value) -> Value {
    json!({ "injection": { "namespaceSelector": { "matchExpressions": [expression] } } })
}

#[test]
fn good_meshes_pass() {
    for spec in [
        json!({}),
        json!({ "trustDomain": "prod.example-1.org_x" }),
        json!({ "certificates": { "leafLifetime": "1m", "issuerLifetime": "2m", "rootLifetime": "1h30m" } }),
        json!({ "certificates": { "leafLifetime": "720h" } }),
        json!({ "injection": { "skipInboundPorts": [22, 65_535], "skipOutboundPorts": [5432] } }),
        json!({ "proxy": { "image": "proxy:1", "resources": { "requests": { "cpu": "10m" }, "limits": { "memory": "64Mi" } } } }),
        json!({ "proxy": { "resources": { "requests": { "cpu": "1", "ephemeral-storage": "0" }, "limits": { "cpu": "1000m", "memory": "1Gi" } } } }),
        json!({ "injection": { "namespaceSelector": {} } }),
        selector(json!({ "key": "example.com/team", "operator": "In", "values": ["a", "", "A_b-c.9"] })),
        selector(json!({ "key": "team", "operator": "NotIn", "values": ["a"] })),
        selector(json!({ "key": "team", "operator": "Exists" })),
        selector(json!({ "key": "team", "operator": "DoesNotExist", "values": [] })),
        json!({ "injection": { "namespaceSelector": { "matchLabels": { "example.com/team": "shop", "x": "" } } } }),
        json!({ "mtls": { "mode": "Permissive" } }),
    ] {
        assert_eq!(complaints(spec.clone()), "", "{spec}");
    }
}

#[test]
fn bad_meshes_are_told_which_field_and_what_to_do() {
    for (spec, expected) in [
        (json!({ "trustDomain": "spiffe://x" }), "no scheme, slash or port"),
        (json!({ "trustDomain": "a/b" }), "no scheme, slash or port"),
        (json!({ "trustDomain": "Prod" }), "a-z, 0-9"),
        (json!({ "trustDomain": "" }), "a-z, 0-9"),
        (json!({ "certificates": { "leafLifetime": "0s" } }), "between 1m and 720h"),
        (json!({ "certificates": { "leafLifetime": "59s" } }), "between 1m and 720h"),
        (json!({ "certificates": { "leafLifetime": "721h" } }), "between 1m and 720h"),
        (json!({ "certificates": { "leafLifetime": "a day" } }), "such as 24h"),
        (json!({ "certificates": { "leafLifetime": "-1h" } }), "such as 24h"),
        (json!({ "certificates": { "issuerLifetime": "" } }), "such as 24h"),
        (json!({ "certificates": { "issuerLifetime": "1d" } }), "such as 24h"),
        (json!({ "certificates": { "issuerLifetime": "24h" } }), "shorter than issuerLifetime"),
        (json!({ "certificates": { "rootLifetime": "8760h" } }), "shorter than rootLifetime"),
        (json!({ "injection": { "skipInboundPorts": [80, 15_008] } }), "belong to the proxy"),
        (json!({ "injection": { "skipOutboundPorts": [15_001] } }), "belong to the proxy"),
        (json!({ "proxy": { "image": "a b" } }), "without spaces"),
        (json!({ "proxy": { "image": "" } }), "image reference"),
        (json!({ "proxy": { "resources": { "limits": { "memory": "much" } } } }), "quantities such as"),
        (json!({ "proxy": { "resources": { "limits": { "memory": "-1Mi" } } } }), "none of them below zero"),
        (json!({ "proxy": { "resources": { "requests": { "cpu": "-10m" } } } }), "none of them below zero"),
        (json!({ "proxy": { "resources": { "limits": { "gpu": "1" } } } }), "cpu, memory and ephemeral-storage only"),
        (
            json!({ "proxy": { "resources": { "requests": { "hugepages-2Mi": "1" } } } }),
            "cpu, memory and ephemeral-storage only",
        ),
        (
            json!({ "proxy": { "resources": { "requests": { "memory": "65Mi" }, "limits": { "memory": "64Mi" } } } }),
            "must not ask for more than",
        ),
        (
            json!({ "proxy": { "resources": { "requests": { "cpu": "2" }, "limits": { "cpu": "1999m" } } } }),
            "must not ask for more than",
        ),
        (selector(json!({ "key": "team", "operator": "in", "values": ["a"] })), "In, NotIn, Exists or DoesNotExist"),
        (selector(json!({ "key": "team", "operator": "" })), "In, NotIn, Exists or DoesNotExist"),
        (selector(json!({ "key": "team", "operator": "In" })), "must not be empty with In"),
        (selector(json!({ "key": "team", "operator": "NotIn", "values": [] })), "must not be empty with In"),
        (selector(json!({ "key": "team", "operator": "Exists", "values": ["a"] })), "left out with Exists"),
        (selector(json!({ "key": "team", "operator": "DoesNotExist", "values": ["a"] })), "left out with Exists"),
        (selector(json!({ "key": "", "operator": "Exists" })), "must name labels such as"),
        (selector(json!({ "key": "a/b/c", "operator": "Exists" })), "must name labels such as"),
        (selector(json!({ "key": "Example.com/team", "operator": "Exists" })), "must name labels such as"),
        (selector(json!({ "key": "te am", "operator": "Exists" })), "must name labels such as"),
        (selector(json!({ "key": "a".repeat(64), "operator": "Exists" })), "must name labels such as"),
        (selector(json!({ "key": "team", "operator": "In", "values": ["a b"] })), "values that a label can have"),
        (selector(json!({ "key": "team", "operator": "In", "values": ["-a"] })), "values that a label can have"),
        (
            json!({ "injection": { "namespaceSelector": { "matchLabels": { "team": "a/b" } } } }),
            "values that a label can have",
        ),
        (json!({ "injection": { "namespaceSelector": { "matchLabels": { "": "a" } } } }), "must name labels such as"),
        (
            json!({ "injection": { "namespaceSelector": { "matchLabels": { "a b": "a" } } } }),
            "must name labels such as",
        ),
        (
            json!({ "injection": { "namespaceSelector": { "matchLabels": { "X.com/a": "a" } } } }),
            "must name labels such as",
        ),
    ] {
        let found = complaints(spec.clone());
        assert!(found.contains(expected), "{spec}: {found:?}");
    }
}

#[test]
fn names_are_dns_labels() {
    for (name, good) in [("default", true), ("a-1", true), ("a.b", false), ("-a", false), (&"a".repeat(64), false)] {
        assert_eq!(validate_cel(&mesh(name, json!({}))).is_ok(), good, "{name}");
    }
}

#[test]
fn the_trust_domain_stays_and_the_rest_may_change() {
    let old = mesh("default", json!({}));
    let moved = mesh("default", json!({ "trustDomain": "other" }));
    let error = validate_cel_update(&moved, &old).expect_err("moved").to_string();
    assert!(error.contains("cannot be changed"), "{error}");
    let changed =
        mesh("default", json!({ "mtls": { "mode": "Permissive" }, "certificates": { "leafLifetime": "12h" } }));
    validate_cel_update(&changed, &old).expect("changed");
}

#[test]
fn what_is_left_out_is_written_as_the_defaults_say() {
    let spec = serde_json::to_value(MeshSpec::default()).unwrap();
    assert_eq!(serde_json::from_value::<MeshSpec>(json!({})).unwrap(), MeshSpec::default());
    assert_eq!(serde_json::from_value::<MeshSpec>(spec).unwrap(), MeshSpec::default());
}
