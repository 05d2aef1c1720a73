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
    /// Mutual TLS from other proxies; see [`tunnel`](super::super::tunnel).
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
    /// Probes as JSON, a list of [`Probe`](super::super::probe::Probe).
    pub const PROBES: &str = "BOWLINE_PROBES";
    /// Ports whose inbound traffic is left alone, comma-separated (read by the gate).
    pub const SKIP_INBOUND: &str = "BOWLINE_SKIP_INBOUND_PORTS";
    /// Ports whose outbound traffic is left alone, comma-separated (read by the gate).
    pub const SKIP_OUTBOUND: &str = "BOWLINE_SKIP_OUTBOUND_PORTS";
}

/// Worker threads at most when nothing else is set.
pub const MAX_DEFAULT_WORKERS: usize = 2;
