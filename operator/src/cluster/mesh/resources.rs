//! Judges the resources of a sidecar: what the API server would refuse in a pod would keep every pod of the Mesh from being created.

use bowline_crds::mesh::rules;
use k8s_openapi::api::core::v1::ResourceRequirements;

use super::invalid::InvalidSpec;

/// Billionths: the finest that the API server knows.
const UNIT: u128 = 1_000_000_000;

/// See the module.
///
/// # Errors
/// Says what in it cannot be.
pub fn judge(resources: &ResourceRequirements) -> Result<(), InvalidSpec> {
    let refuse = |what: &'static str| Err(InvalidSpec::Resources(what));
    for (name, quantity) in resources.requests.iter().flatten().chain(resources.limits.iter().flatten()) {
        if !rules::RESOURCES.contains(&name.as_str()) {
            return refuse(rules::RESOURCE_NAMES);
        }
        if read(&quantity.0).is_none() {
            return refuse(rules::QUANTITIES);
        }
    }
    for (name, request) in resources.requests.iter().flatten() {
        let limit = resources.limits.as_ref().and_then(|l| l.get(name));
        if limit.is_some_and(|limit| read(&request.0) > read(&limit.0)) {
            return refuse(rules::REQUESTS);
        }
    }
    Ok(())
}

/// A quantity that is not below zero, in billionths; what is too large to count is as large as can be.
fn read(text: &str) -> Option<u128> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.bytes().position(|b| !b.is_ascii_digit() && b != b'.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if text.len() > 32 || fraction.contains('.') || whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // At most 32 digits, which fit.
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (factor, tens) = scale(suffix)?;
    let tens = tens - i32::try_from(fraction.len()).ok()?;
    let power = 10_u128.saturating_pow(tens.unsigned_abs());
    let scaled = digits.saturating_mul(factor).saturating_mul(UNIT);
    Some(if tens < 0 { scaled.div_ceil(power) } else { scaled.saturating_mul(power) })
}

/// What a suffix multiplies by: a factor and a power of ten.
fn scale(suffix: &str) -> Option<(u128, i32)> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [(&str, i32); 10] =
        [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    if let Some(n) = BINARY.iter().position(|b| *b == suffix) {
        // At most 2^60.
        return Some((1_u128 << (10 * (n + 1)), 0));
    }
    if let Some((_, tens)) = DECIMAL.iter().find(|(d, _)| *d == suffix) {
        return Some((1, *tens));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    // More than three digits say nothing that fits.
    exponent.parse().ok().filter(|tens: &i32| tens.unsigned_abs() < 1000).map(|tens| (1, tens))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, billionths) in [
            ("1", UNIT),
            ("+1", UNIT),
            ("1.5", UNIT * 3 / 2),
            (".5", UNIT / 2),
            ("100m", UNIT / 10),
            ("1n", 1),
            ("0.1n", 1),
            ("1k", 1000 * UNIT),
            ("1Ki", 1024 * UNIT),
            ("1e3", 1000 * UNIT),
            ("1E-3", UNIT / 1000),
            ("2E", 2_000_000_000_000_000_000 * UNIT),
            ("1Ei", (1 << 60) * UNIT),
            ("0", 0),
            ("1e99", u128::MAX),
        ] {
            assert_eq!(read(text), Some(billionths), "{text}");
        }
        for text in ["", "m", ".", "1.2.3", "-1", "1 Mi", "1mi", "1KI", "much", "1e", "1e1.5", "1e9999", "٣"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_sidecar_gets_what_a_pod_could_have() {
        let judged = |resources: Value| judge(&serde_json::from_value(resources).unwrap());
        for good in [
            json!({}),
            json!({ "requests": { "cpu": "10m" }, "limits": { "memory": "64Mi" } }),
            json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "1000m" } }),
        ] {
            assert_eq!(judged(good.clone()), Ok(()), "{good}");
        }
        for (bad, expected) in [
            (json!({ "limits": { "nvidia.com/gpu": "1" } }), rules::RESOURCE_NAMES),
            (json!({ "requests": { "memory": "-1" } }), rules::QUANTITIES),
            (json!({ "limits": { "cpu": "fast" } }), rules::QUANTITIES),
            (json!({ "requests": { "memory": "1Gi" }, "limits": { "memory": "1G" } }), rules::REQUESTS),
        ] {
            assert_eq!(judged(bad.clone()), Err(InvalidSpec::Resources(expected)), "{bad}");
        }
    }
}
