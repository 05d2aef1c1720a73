//! `config/rbac/role.yaml` grants exactly what `operator/src/rbac.rs` says that the operator calls.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeSet, fs, path::Path};

use bowline_operator::rbac::RULES;
use serde::Deserialize as _;
use serde_json::Value;

/// One right: scope, group, resource, name (empty: any), verb.
type Right = (&'static str, String, String, String, String);

const CLUSTER: &str = "cluster";
const OWN_NAMESPACE: &str = "own namespace";

fn or_any(names: Vec<String>) -> Vec<String> {
    if names.is_empty() { vec![String::new()] } else { names }
}

fn expand(
    scope: &'static str,
    groups: &[String],
    resources: &[String],
    names: &[String],
    verbs: &[String],
) -> Vec<Right> {
    let mut rights = Vec::new();
    for group in groups {
        for resource in resources {
            for name in names {
                for verb in verbs {
                    rights.push((scope, group.clone(), resource.clone(), name.clone(), verb.clone()));
                }
            }
        }
    }
    rights
}

fn called() -> BTreeSet<Right> {
    let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    RULES
        .iter()
        .flat_map(|rule| {
            let scope = if rule.own_namespace { OWN_NAMESPACE } else { CLUSTER };
            let names = or_any(owned(rule.names));
            expand(scope, &owned(&[rule.group]), &owned(&[rule.resource]), &names, &owned(rule.verbs))
        })
        .collect()
}

fn granted() -> BTreeSet<Right> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/rbac/role.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let mut rights = BTreeSet::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let role = Value::deserialize(document).unwrap();
        let scope = match role["kind"].as_str().unwrap() {
            "ClusterRole" => CLUSTER,
            "Role" => OWN_NAMESPACE,
            other => panic!("{other} in {}", file.display()),
        };
        for rule in role["rules"].as_array().unwrap() {
            let words = |key: &str| -> Vec<String> {
                rule[key].as_array().into_iter().flatten().map(|w| w.as_str().unwrap().to_owned()).collect()
            };
            let names = or_any(words("resourceNames"));
            for right in expand(scope, &words("apiGroups"), &words("resources"), &names, &words("verbs")) {
                assert!(rights.insert(right.clone()), "{right:?} is granted twice");
            }
        }
    }
    rights
}

#[test]
fn granted_is_what_is_called() {
    let (called, granted) = (called(), granted());
    let missing: Vec<_> = called.difference(&granted).collect();
    assert!(missing.is_empty(), "called by the operator, but not granted by config/rbac/role.yaml: {missing:#?}");
    let excess: Vec<_> = granted.difference(&called).collect();
    assert!(excess.is_empty(), "granted by config/rbac/role.yaml, but never called by the operator: {excess:#?}");
}

#[test]
fn every_rule_says_what_it_is_for() {
    for rule in RULES {
        assert!(!rule.purpose.is_empty() && !rule.verbs.is_empty(), "{rule:?}");
    }
}
