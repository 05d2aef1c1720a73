//! The contract between the injector and the sidecar: names, ports, user, mounts, environment and defaults. Both sides compile
//! against this file; nothing in it may change its meaning between versions that live in one mesh together (N−2).

/// Version of proxy, operator and wire contract: one release, one number.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Names of the two slots, in order. Both are native sidecars with the same image; one serves, the other stands by.
pub const SLOTS: [&str; 2] = ["bowline-a", "bowline-b"];

/// Name of the init container that holds the application back until the mesh serves, then writes the redirect rules.
pub const GATE: &str = "bowline-gate";

/// User and group that the slots run as. Traffic of this user is never redirected, so no other container may use it.
pub const PROXY_UID: i64 = 15_001;

/// Ports of the proxy inside the pod.
pub mod ports {
    /// Admin (`/ready`, `/live`, `/config`, `/metrics`): loopback only.
    pub const ADMIN: u16 = 15_000;
    /// Takes what containers of the pod connect to (redirected).
    pub const OUTBOUND: u16 = 15_001;
    /// Takes what comes from outside the mesh for a port of the application (redirected).
    pub const INBOUND: u16 = 15_006;
    /// Mutual TLS from other proxies; see [`super::tunnel`].
    pub const MESH: u16 = 15_008;
    /// `/metrics` for Prometheus, plain HTTP on the pod's address.
    pub const METRICS: u16 = 15_020;
    /// Probes of the application's containers, carried out on the kubelet's behalf.
    pub const PROBES: u16 = 15_021;

    /// All of them: no container of a meshed pod may listen on one.
    pub const ALL: [u16; 6] = [ADMIN, OUTBOUND, INBOUND, MESH, METRICS, PROBES];
    /// Reached from outside the pod, hence never redirected.
    pub const OPEN: [u16; 3] = [MESH, METRICS, PROBES];
}

/// How two proxies talk: TLS 1.3 with client certificates to [`ports::MESH`], HTTP/2 inside. The destination of a connection stands in
/// its SNI, so that no request carries it: `PORT.APP.bowline.internal`.
pub mod tunnel {
    /// ALPN protocol of the wire contract between proxies.
    pub const ALPN: &[u8] = b"bowline/1";
    /// Last labels of the SNI.
    pub const SNI_SUFFIX: &str = "bowline.internal";

    /// What the application at the far end speaks.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum App {
        /// HTTP/1.1: every stream is one request; the inbound proxy speaks HTTP/1.1 to the application. WebSocket and other
        /// upgrades are extended CONNECT streams (RFC 8441) whose `:protocol` is the upgrade token.
        Http1,
        /// HTTP/2 with prior knowledge (gRPC too): every stream is one request.
        Http2,
        /// Opaque bytes: every stream is a CONNECT (RFC 9113, section 8.5) that carries one TCP connection; END_STREAM is FIN.
        Tcp,
    }

    impl App {
        /// The label in the SNI.
        #[must_use]
        pub fn label(self) -> &'static str {
            match self {
                Self::Http1 => "h1",
                Self::Http2 => "h2",
                Self::Tcp => "tcp",
            }
        }
    }

    /// The SNI for an application port.
    #[must_use]
    pub fn sni(port: u16, app: App) -> String {
        format!("{port}.{}.{SNI_SUFFIX}", app.label())
    }

    /// Reads an SNI back; `None` for anything that [`sni`] does not make.
    #[must_use]
    pub fn parse_sni(name: &str) -> Option<(u16, App)> {
        let (port, rest) = name.split_once('.')?;
        let app = match rest.strip_suffix(SNI_SUFFIX)? {
            "h1." => App::Http1,
            "h2." => App::Http2,
            "tcp." => App::Tcp,
            _ => return None,
        };
        let number: u16 = port.parse().ok()?;
        // One spelling only: no sign, no leading zero, never port 0.
        (number != 0 && number.to_string() == port).then_some((number, app))
    }
}

/// Files inside the sidecar. All are mounts, so that whatever rotates reaches a running or restarted sidecar by itself.
pub mod paths {
    /// Directory of the ConfigMap [`super::TRUST_CONFIG_MAP_PREFIX`]`MESH`.
    pub const TRUST_DIR: &str = "/var/run/bowline/trust";
    /// Trust bundle, PEM, in [`TRUST_DIR`].
    pub const BUNDLE: &str = "/var/run/bowline/trust/bundle.pem";
    /// [`super::MeshInfo`] as JSON, in [`TRUST_DIR`].
    pub const MESH_INFO: &str = "/var/run/bowline/trust/mesh.json";
    /// Projected service-account token with the audience [`super::TOKEN_AUDIENCE`].
    pub const TOKEN: &str = "/var/run/bowline/token/token";
    /// Memory-backed directory shared by the two slots and the gate: the lock and sockets by which they agree who serves.
    pub const SLOTS_DIR: &str = "/var/run/bowline/slots";
    /// Held (flock) by the slot that serves, in [`SLOTS_DIR`].
    pub const SERVING_LOCK: &str = "/var/run/bowline/slots/serving.lock";
}

/// Name of the ConfigMap with the trust bundle in every member namespace: this prefix and the Mesh's name.
pub const TRUST_CONFIG_MAP_PREFIX: &str = "bowline-trust-";
/// Key of the bundle in that ConfigMap.
pub const TRUST_KEY_BUNDLE: &str = "bundle.pem";
/// Key of [`MeshInfo`] in that ConfigMap.
pub const TRUST_KEY_MESH: &str = "mesh.json";

/// Audience of the projected token that a sidecar presents with its certificate signing request.
pub const TOKEN_AUDIENCE: &str = "bowline.dev/identity";
/// Seconds that the projected token lives; the kubelet renews it at 80 %.
pub const TOKEN_SECONDS: i64 = 3600;

/// What a sidecar must know of its mesh before it can talk to the control plane: `mesh.json` beside the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshInfo {
    /// Name of the Mesh.
    pub mesh: String,
    /// Trust domain of every identity in it.
    pub trust_domain: String,
    /// Sequence of the bundle beside it.
    pub bundle_sequence: u64,
    /// Identity and control service, `HOST:PORT`; the host ends in a dot where it is a cluster DNS name.
    pub control_address: String,
    /// Addresses of that service, for pods whose own DNS does not know the cluster's names (`dnsPolicy: None` or `Default`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub control_ips: Vec<std::net::IpAddr>,
    /// SNI of that service: one control plane serves several meshes, each with the chain of its own root.
    pub control_sni: String,
    /// SPIFFE ID that the control plane proves.
    pub control_identity: String,
    /// `TrustBundle.issuers_sha256` of the wire protocol, lower-case hex.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers_sha256: Vec<String>,
    /// `TrustBundle.renew_within_seconds` of the wire protocol.
    #[serde(default)]
    pub renew_within_seconds: u32,
    /// `TrustBundle.revoked_sha256` of the wire protocol, lower-case hex.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked_sha256: Vec<String>,
}

/// Environment of the slots and the gate. Only what never rotates stands here.
pub mod env {
    /// `a` or `b`.
    pub const SLOT: &str = "BOWLINE_SLOT";
    /// Pod's name, namespace, UID, service account and address (downward API).
    pub const POD_NAME: &str = "BOWLINE_POD_NAME";
    /// See [`POD_NAME`].
    pub const POD_NAMESPACE: &str = "BOWLINE_POD_NAMESPACE";
    /// See [`POD_NAME`].
    pub const POD_UID: &str = "BOWLINE_POD_UID";
    /// See [`POD_NAME`].
    pub const POD_IP: &str = "BOWLINE_POD_IP";
    /// Name of the pod's node (downward API).
    pub const NODE_NAME: &str = "BOWLINE_NODE_NAME";
    /// Topology zone of that node (downward API: the pod's label, which the API server sets since Kubernetes 1.35); empty without it.
    pub const ZONE: &str = "BOWLINE_ZONE";
    /// See [`POD_NAME`].
    pub const SERVICE_ACCOUNT: &str = "BOWLINE_SERVICE_ACCOUNT";
    /// Name of the workload that owns the pod (metrics label), e.g. `web`.
    pub const WORKLOAD: &str = "BOWLINE_WORKLOAD";
    /// Filter of the log, as tracing's EnvFilter reads it.
    pub const LOG: &str = "BOWLINE_LOG";
    /// Seconds that a draining proxy waits for what is in flight.
    pub const DRAIN_SECONDS: &str = "BOWLINE_DRAIN_SECONDS";
    /// Number of worker threads; default: the processors that the container was given, at most [`super::MAX_DEFAULT_WORKERS`].
    pub const WORKERS: &str = "BOWLINE_WORKERS";
    /// Probes as JSON, a list of [`super::Probe`].
    pub const PROBES: &str = "BOWLINE_PROBES";
    /// Ports whose inbound traffic is left alone, comma-separated (read by the gate).
    pub const SKIP_INBOUND: &str = "BOWLINE_SKIP_INBOUND_PORTS";
    /// Ports whose outbound traffic is left alone, comma-separated (read by the gate).
    pub const SKIP_OUTBOUND: &str = "BOWLINE_SKIP_OUTBOUND_PORTS";
}

/// Worker threads at most when nothing else is said.
pub const MAX_DEFAULT_WORKERS: usize = 2;

/// A probe or lifecycle hook of an application's container, which the injector points at [`ports::PROBES`], path
/// `/probe/ID`; the proxy carries it out against the application and answers 200 or, when it fails, 503 and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// `KEY/CONTAINER/KIND`, KIND one of `liveness`, `readiness`, `startup`, `postStart`, `preStop`. The key is made at admission and stands
    /// in the pod's spec alone, so that nobody but the kubelet asks; pods of earlier versions have none (`CONTAINER/KIND`).
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

/// Header that names why a proxy answered in the application's stead; see [`Reason`].
pub const REASON_HEADER: &str = "bowline-reason";

/// Why a request or connection was refused or failed: one vocabulary for header, log and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Plaintext reached a workload that wants mutual TLS.
    MtlsRequired,
    /// The peer proved no identity of the trust domain, or another one than expected.
    WrongIdentity,
    /// The Service exists and has no endpoint that may be used.
    NoEndpoints,
    /// The Service has no such port.
    UnknownPort,
    /// Nothing is known of the destination and the control plane cannot be asked.
    ControlPlaneUnavailable,
    /// No connection to the endpoint.
    ConnectFailed,
    /// The handshake with the endpoint's proxy failed.
    TlsFailed,
    /// The connection broke before an answer was complete.
    ConnectionLost,
    /// A bound was hit.
    Overloaded,
    /// The request violates its protocol.
    BadRequest,
}

impl Reason {
    /// Every reason, for metrics and documentation.
    pub const ALL: [Self; 10] = [
        Self::MtlsRequired,
        Self::WrongIdentity,
        Self::NoEndpoints,
        Self::UnknownPort,
        Self::ControlPlaneUnavailable,
        Self::ConnectFailed,
        Self::TlsFailed,
        Self::ConnectionLost,
        Self::Overloaded,
        Self::BadRequest,
    ];

    /// As it stands in header, log and metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MtlsRequired => "mtls-required",
            Self::WrongIdentity => "wrong-identity",
            Self::NoEndpoints => "no-endpoints",
            Self::UnknownPort => "unknown-port",
            Self::ControlPlaneUnavailable => "control-plane-unavailable",
            Self::ConnectFailed => "connect-failed",
            Self::TlsFailed => "tls-failed",
            Self::ConnectionLost => "connection-lost",
            Self::Overloaded => "overloaded",
            Self::BadRequest => "bad-request",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sni_is_read_back_and_nothing_else_is() {
        for app in [tunnel::App::Http1, tunnel::App::Http2, tunnel::App::Tcp] {
            assert_eq!(tunnel::parse_sni(&tunnel::sni(8080, app)), Some((8080, app)));
        }
        for bad in [
            "",
            "8080.h1",
            "0.h1.bowline.internal",
            "08.h1.bowline.internal",
            "+8.h1.bowline.internal",
            "8.h3.bowline.internal",
            "99999.h1.bowline.internal",
            "8.h1.x.bowline.internal",
        ] {
            assert_eq!(tunnel::parse_sni(bad), None, "{bad}");
        }
    }

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
