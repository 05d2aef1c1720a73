//! Why the API server refused a write, in words that stay the same for as long as the reasons do: a status that changes with every try says nothing.

use bowline_crds::conditions::reasons;

/// Characters of the API server's words that are quoted at most.
const QUOTED: usize = 300;

/// What kind of a refusal it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its namespace is being deleted.
    Terminating,
    /// RBAC.
    Forbidden,
    /// A ResourceQuota.
    Quota,
    /// Somebody's admission webhook or policy.
    Denied,
    /// Anything else.
    Other,
}

impl Cause {
    /// Of an error.
    #[must_use]
    pub fn of(error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else { return Self::Other };
        let causes = status.details.iter().flat_map(|d| &d.causes);
        if status.code == 403 && causes.clone().any(|c| c.reason == "NamespaceTerminating") {
            Self::Terminating
        } else if status.message.contains("exceeded quota") {
            Self::Quota
        } else if ["denied the request", "denied request"].iter().any(|words| status.message.contains(words)) {
            Self::Denied
        } else if status.code == 403 {
            Self::Forbidden
        } else {
            Self::Other
        }
    }

    /// What a condition gives as reason.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Forbidden => reasons::FORBIDDEN,
            Self::Quota => reasons::QUOTA_EXCEEDED,
            Self::Denied => reasons::ADMISSION_DENIED,
            Self::Terminating | Self::Other => reasons::API_ERROR,
        }
    }

    /// What to do about it; empty: it is tried again.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Forbidden => ": install the operator's roles as they are shipped",
            Self::Quota => ": let the namespace's ResourceQuota allow one more ConfigMap for each Mesh",
            Self::Denied => ": let the admission webhook or policy admit what the operator's service account writes",
            Self::Terminating | Self::Other => "",
        }
    }
}

/// The API server's words, without what differs from try to try.
#[must_use]
pub fn words(error: &kube::Error) -> String {
    let text = match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    };
    text.chars().take(QUOTED).collect()
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
    fn refusals_are_told_apart() {
        let terminating = json!([{ "reason": "NamespaceTerminating", "message": "", "field": "metadata.namespace" }]);
        for (code, message, causes, expected) in [
            (403, r#"configmaps "x" is forbidden: unable to create new content"#, &terminating, Cause::Terminating),
            (403, r#"configmaps "x" is forbidden: User "u" cannot patch resource"#, &json!([]), Cause::Forbidden),
            (
                403,
                "configmaps \"x\" is forbidden: exceeded quota: q, requested: configmaps=1",
                &json!([]),
                Cause::Quota,
            ),
            (403, "admission webhook \"w\" denied the request: no", &json!([]), Cause::Denied),
            (422, "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", &json!([]), Cause::Denied),
            (500, "etcd", &json!([]), Cause::Other),
        ] {
            assert_eq!(Cause::of(&refused(code, message, causes)), expected, "{message}");
        }
    }
}
