//! Judges a namespace selector as the API server does where it is used: one that it would refuse in the webhook's configuration, which
//! all Meshes share, must not get there.

use bowline_crds::mesh::rules;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::Selector;

use super::invalid::InvalidSpec;

/// Most expressions or labels, and most values of an expression.
const MOST: usize = 64;

/// The selector, ready to match.
///
/// # Errors
/// Says what in it cannot be.
pub fn judge(selector: &LabelSelector) -> Result<Selector, InvalidSpec> {
    let refuse = |what: &str| Err(InvalidSpec::Selector(what.to_owned()));
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    let labels = selector.match_labels.iter().flatten();
    if expressions.len() > MOST || labels.clone().count() > MOST {
        return refuse("spec.injection.namespaceSelector has more than 64 expressions or labels: use fewer");
    }
    for expression in expressions {
        judge_expression(expression)?;
    }
    for (key, value) in labels {
        if !is_name(key) {
            return refuse(&format!("{}; {key:?} is none", rules::KEYS));
        }
        if !is_value(value) {
            return refuse(&format!("{}; {value:?} is none", rules::LABEL_VALUES));
        }
    }
    Selector::try_from(selector.clone()).or_else(|error| refuse(&format!("spec.injection.namespaceSelector: {error}")))
}

fn judge_expression(expression: &LabelSelectorRequirement) -> Result<(), InvalidSpec> {
    let LabelSelectorRequirement { key, operator, values } = expression;
    let values = values.as_deref().unwrap_or_default();
    let fault = match operator.as_str() {
        "In" | "NotIn" if values.is_empty() => rules::VALUES,
        "Exists" | "DoesNotExist" if !values.is_empty() => rules::VALUES,
        "In" | "NotIn" | "Exists" | "DoesNotExist" if !is_name(key) => rules::KEYS,
        "In" | "NotIn" | "Exists" | "DoesNotExist" if !values.iter().all(|v| is_value(v)) => rules::LABEL_VALUES,
        "In" | "NotIn" | "Exists" | "DoesNotExist" if values.len() <= MOST => return Ok(()),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {
            "spec.injection.namespaceSelector lists more than 64 values: use fewer"
        }
        _ => rules::OPERATORS,
    };
    let shown: String = key.chars().take(80).collect();
    Err(InvalidSpec::Selector(format!("{fault}; the expression on {shown:?} is not so")))
}

/// Whether a label can have this name: `NAME` or `DNS-SUBDOMAIN/NAME`.
fn is_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    !name.is_empty() && is_value(name) && prefix.is_none_or(is_subdomain)
}

fn is_subdomain(text: &str) -> bool {
    let is_part = |part: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

/// Whether a label can have this value.
fn is_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn judged(selector: Value) -> String {
        let selector: LabelSelector = serde_json::from_value(selector).unwrap();
        judge(&selector).err().map(|e| e.to_string()).unwrap_or_default()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
        json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] })
    }

    #[test]
    fn what_the_api_server_would_take_passes() {
        for selector in [
            json!({}),
            json!({ "matchLabels": { "team": "shop", "example.com/a_b": "", "x": "A-b_c.9" } }),
            expression("team", "In", &["a", ""]),
            expression("example.com/team", "NotIn", &["a"]),
            expression("team", "Exists", &[]),
            expression("team", "DoesNotExist", &[]),
        ] {
            assert_eq!(judged(selector.clone()), "", "{selector}");
        }
    }

    #[test]
    fn what_it_would_refuse_is_refused_with_the_remedy() {
        let long = "a".repeat(64);
        for (selector, expected) in [
            (expression("team", "in", &["a"]), rules::OPERATORS),
            (expression("team", "", &[]), rules::OPERATORS),
            (expression("team", "In", &[]), rules::VALUES),
            (expression("team", "NotIn", &[]), rules::VALUES),
            (expression("team", "Exists", &["a"]), rules::VALUES),
            (expression("team", "DoesNotExist", &["a"]), rules::VALUES),
            (expression("", "Exists", &[]), rules::KEYS),
            (expression("a/b/c", "Exists", &[]), rules::KEYS),
            (expression("Example.com/a", "Exists", &[]), rules::KEYS),
            (expression("example..com/a", "Exists", &[]), rules::KEYS),
            (expression("a b", "Exists", &[]), rules::KEYS),
            (expression(&long, "Exists", &[]), rules::KEYS),
            (expression("team", "In", &["a b"]), rules::LABEL_VALUES),
            (expression("team", "In", &[&long]), rules::LABEL_VALUES),
            (expression("team", "NotIn", &["-a"]), rules::LABEL_VALUES),
            (json!({ "matchLabels": { "a b": "c" } }), rules::KEYS),
            (json!({ "matchLabels": { "a": "b/c" } }), rules::LABEL_VALUES),
        ] {
            let found = judged(selector.clone());
            assert!(
                found.contains(expected) && found.contains("spec.injection.namespaceSelector"),
                "{selector}: {found:?}"
            );
        }
    }
}
