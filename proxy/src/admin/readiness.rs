//! Whether the proxy is ready, and what is missing. Pure.

/// Why a proxy is not ready.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NotReady {
    /// One word: `leaf`, `bundle`, `policy`, `listeners`, `draining`.
    pub what: &'static str,
    /// What is missing and what was tried last.
    pub why: String,
}

/// What readiness depends on.
#[derive(Debug, Clone, Default)]
pub struct ReadinessInputs {
    /// Last second of the leaf's validity (Unix time), if there is one.
    pub leaf_not_after: Option<i64>,
    /// Number of roots trusted, if a bundle is known.
    pub roots: Option<usize>,
    /// Whether the inbound policy is known.
    pub policy: bool,
    /// Whether the data plane's listeners are open.
    pub listening: bool,
    /// Whether the proxy was asked to terminate.
    pub draining: bool,
    /// Last error of the identity client.
    pub identity_error: Option<String>,
    /// Last error of the control stream.
    pub control_error: Option<String>,
}

/// What is missing for readiness at `now` (Unix seconds); nothing means ready.
#[must_use]
pub fn not_ready(seen: &ReadinessInputs, now: i64) -> Vec<NotReady> {
    let mut reasons = Vec::new();
    let mut missing = |what, why: String| reasons.push(NotReady { what, why });
    let tried = |error: &Option<String>| error.clone().unwrap_or_else(|| "it is being asked for".into());
    match seen.leaf_not_after {
        None => missing("leaf", format!("there is no leaf yet: {}", tried(&seen.identity_error))),
        Some(end) if end < now => {
            missing("leaf", format!("the leaf expired {} s ago: {}", now - end, tried(&seen.identity_error)));
        }
        Some(_) => {}
    }
    match seen.roots {
        None => missing("bundle", format!("there is no trust bundle yet: {}", tried(&seen.identity_error))),
        Some(0) => missing("bundle", "the trust bundle is empty: it trusts nobody".into()),
        Some(_) => {}
    }
    if !seen.policy {
        missing("policy", format!("the inbound policy is not known yet: {}", tried(&seen.control_error)));
    }
    if !seen.listening {
        missing("listeners", "the ports of the proxy are not open yet".into());
    }
    if seen.draining {
        missing("draining", "the proxy was told to end".into());
    }
    reasons
}
