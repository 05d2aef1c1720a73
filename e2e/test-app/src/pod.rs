//! Who answers: the name of this pod.

/// Name of this pod, as answers carry it.
pub(crate) fn pod() -> String {
    std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| "unknown".into())
}
