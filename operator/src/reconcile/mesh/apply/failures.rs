//! Writes that failed, told in an order and in words that stay the same for as long as the reasons do.

use std::{collections::BTreeMap, fmt};

use crate::reconcile::api_error::{Cause, words};

/// Objects that are named at most.
const NAMED: usize = 5;

/// Writes that failed, by object.
#[derive(Debug, Default)]
pub struct Failures(BTreeMap<String, (Cause, String)>);

impl Failures {
    /// One more.
    pub fn add(&mut self, object: String, error: &kube::Error) {
        self.0.insert(object, (Cause::of(error), words(error)));
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The cause that most needs somebody.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.0.values().map(|(cause, _)| *cause).min().unwrap_or(Cause::Other)
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (object, (_, words))) in self.0.iter().take(NAMED).enumerate() {
            write!(f, "{}{object}: {words}", if n == 0 { "" } else { "; " })?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn refused(code: u16, message: &str, causes: &Value) -> kube::Error {
        let status = json!({ "status": "Failure", "code": code, "message": message, "reason": "", "details": { "causes": causes } });
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn many_failures_are_told_in_order_and_cut() {
        let mut failures = Failures::default();
        for n in (0..8).rev() {
            failures.add(format!("ConfigMap n{n}/x"), &refused(if n == 7 { 403 } else { 500 }, "no", &json!([])));
        }
        let text = failures.to_string();
        assert!(
            text.starts_with("ConfigMap n0/x: no; ConfigMap n1/x: no;") && text.ends_with("; and 3 more"),
            "{text}"
        );
        assert_eq!(failures.cause(), Cause::Forbidden, "the one that needs somebody is among those that are cut");
    }
}
