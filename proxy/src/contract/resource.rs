//! What the control plane tells proxies, as checked domain types: trust bundle, inbound policy, addresses, Services.
//! [`validate`](super::validate) makes them of encoded resources.

use std::net::IpAddr;

use crate::contract::spiffe::SpiffeId;

pub use crate::contract::proto::Protocol;

/// Roots that a workload trusts; none means: trust nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bundle {
    /// Trust domain of every identity accepted.
    pub trust_domain: String,
    /// Monotonic; a lower one never replaces a higher one.
    pub sequence: u64,
    /// X.509 certificates, DER.
    pub roots: Vec<Vec<u8>>,
    /// SHA-256 of the issuing CAs whose leaves are wanted; none: any.
    pub issuers: Vec<[u8; 32]>,
    /// Within how many seconds a leaf of another issuing CA is to be renewed.
    pub renew_within_seconds: u32,
    /// SHA-256 of roots whose key is compromised.
    pub revoked: Vec<[u8; 32]>,
}

/// What a pod demands of those who call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPolicy {
    /// Whether only mutual TLS is accepted.
    pub strict: bool,
    /// Declared protocols by port, ascending; others are detected.
    pub ports: Vec<(u16, Protocol)>,
}

/// What stands behind an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A cluster IP.
    Service(ServiceKey),
    /// A pod.
    Workload(Workload),
}

/// Names a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl std::fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod addressed directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Name of the Deployment, StatefulSet … that made it; the pod's own where none did.
    pub owner: String,
    /// The identity to expect on the mesh port; none: it is spoken to in plain.
    pub identity: Option<SpiffeId>,
    /// Declared protocols by port, ascending.
    pub ports: Vec<(u16, Protocol)>,
}

/// A Service with its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Name.
    pub key: ServiceKey,
    /// Its ports, ascending by number.
    pub ports: Vec<ServicePort>,
    /// Which of its endpoints a caller may use.
    pub selection: Selection,
}

/// Which of a Service's endpoints a caller may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Selection {
    /// Those of its own node.
    pub local: bool,
    /// Always the same one.
    pub affine: bool,
}

/// A port of a Service and who serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Number on the Service.
    pub port: u16,
    /// Its name, possibly empty.
    pub name: String,
    /// Declared protocol.
    pub protocol: Protocol,
    /// Endpoints that offer it.
    pub endpoints: Vec<Endpoint>,
}

/// A pod (or address) that serves a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Address of the pod.
    pub ip: IpAddr,
    /// Port of the application.
    pub port: u16,
    /// The identity to expect on the mesh port; none: it is spoken to in plain.
    pub identity: Option<SpiffeId>,
    /// Pod name, possibly empty.
    pub pod: String,
    /// Topology zone, possibly empty.
    pub zone: String,
    /// Name of the node, possibly empty.
    pub node: String,
    /// Zones whose callers are to use it; none: no hint.
    pub for_zones: Vec<String>,
    /// Nodes whose callers are to use it; none: no hint.
    pub for_nodes: Vec<String>,
    /// Finishes what it has; is given something new only where all others do as much.
    pub draining: bool,
}
