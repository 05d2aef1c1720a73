//! A probe of the application, as the injector hands it to the sidecar ([`env::PROBES`](super::bootstrap::env::PROBES)).

/// A probe or lifecycle hook of an application's container, which the injector points at
/// [`ports::PROBES`](super::bootstrap::ports::PROBES), path `/probe/ID`; the proxy carries it out against the application and answers 200
/// or, when it fails, 503 and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// `KEY/CONTAINER/KIND`, KIND one of `liveness`, `readiness`, `startup`, `postStart`, `preStop`. The key is made at admission and
    /// stands in the pod's spec alone, so that nobody but the kubelet asks; pods of earlier versions have none (`CONTAINER/KIND`).
    pub id: String,
    /// What is done.
    #[serde(flatten)]
    pub action: ProbeAction,
    /// Seconds after which it has failed.
    pub timeout_seconds: u32,
}

/// What a probe does; meaning as in Kubernetes' `core/v1` Probe.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeAction {
    /// Status 200–399 is a success; redirects to the same host are followed, to others count as a success.
    #[serde(rename_all = "camelCase")]
    HttpGet {
        /// Host to connect to; none: the pod's address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Port of the application.
        port: u16,
        /// Path and query.
        path: String,
        /// Whether TLS is spoken (certificates are not verified, as the kubelet does not).
        #[serde(default)]
        https: bool,
        /// Further headers, in order.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// A connection that is accepted is a success.
    #[serde(rename_all = "camelCase")]
    TcpSocket {
        /// Host to connect to; none: the pod's address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Port of the application.
        port: u16,
    },
    /// `grpc.health.v1.Health/Check` that answers SERVING is a success.
    #[serde(rename_all = "camelCase")]
    Grpc {
        /// Port of the application.
        port: u16,
        /// Service asked for; empty: the server as a whole.
        #[serde(default)]
        service: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_travel_as_json() {
        let probe = Probe {
            id: "web/liveness".into(),
            action: ProbeAction::Grpc { port: 9, service: String::new() },
            timeout_seconds: 1,
        };
        let text = serde_json::to_string(&probe).unwrap();
        assert_eq!(text, r#"{"id":"web/liveness","grpc":{"port":9,"service":""},"timeoutSeconds":1}"#);
        assert_eq!(serde_json::from_str::<Probe>(&text).unwrap(), probe);
    }
}
