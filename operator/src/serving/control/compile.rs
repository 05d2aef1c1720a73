//! Index → resources as the proxies of one Mesh see them, encoded and checked with the proxy's own code. Pure.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};

use bowline_proxy::contract::{
    proto::{
        Address, Endpoint, EndpointGroup, InboundPolicy, MtlsMode, PortProtocol, Protocol, ResourceType, Service,
        ServicePort, ServiceRef, TrustBundle, Workload, address::Target,
    },
    validate::{self, InvalidResource},
};
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{
    index::{Index, Subject},
    view::{EndpointView, MeshView, PodView},
};
use crate::cluster::namespaced_name::NamespacedName;

/// An encoded resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Hash of the body; 0: there is no such resource.
    pub version: u64,
    /// The encoded message.
    pub body: Bytes,
    /// For an address of a Service: that Service, which is subscribed with it.
    pub implies: Option<NamespacedName>,
}

impl Compiled {
    /// The resource does not exist.
    #[must_use]
    pub fn absent() -> Self {
        Self { version: 0, body: Bytes::new(), implies: None }
    }
}

/// The resource as the proxies of `mesh` see it; `None`: nothing is known of that Mesh, so nothing can be said.
///
/// # Errors
/// When the proxy's own code refuses it.
pub fn compile(index: &Index, mesh: &str, subject: &Subject) -> Result<Option<Compiled>, InvalidResource> {
    let Some(view) = index.mesh(mesh) else { return Ok(None) };
    let compiler = Compiler { index, mesh, view };
    let compiled = match subject {
        Subject::Address(ip) => match compiler.address(*ip) {
            Some((address, implies)) => Compiled { implies, ..encode(ResourceType::Address, &address)? },
            None => Compiled::absent(),
        },
        Subject::Service(name) => match compiler.service(name) {
            Some(service) => encode(ResourceType::Service, &service)?,
            None => Compiled::absent(),
        },
        Subject::Inbound(pod) => encode(ResourceType::InboundPolicy, &compiler.inbound(pod))?,
    };
    Ok(Some(compiled))
}

/// A trust bundle.
///
/// # Errors
/// When the proxy's own code refuses it.
pub fn bundle(bundle: &TrustBundle) -> Result<Compiled, InvalidResource> {
    encode(ResourceType::TrustBundle, bundle)
}

fn encode(kind: ResourceType, message: &impl Message) -> Result<Compiled, InvalidResource> {
    let body = Bytes::from(message.encode_to_vec());
    validate::resource(kind.into(), &body)?;
    Ok(Compiled { version: version(&body), body, implies: None })
}

/// First eight bytes of SHA-256, little endian; never 0.
fn version(body: &[u8]) -> u64 {
    let hash = Sha256::digest(body);
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(first).max(1)
}

/// Compiles from one Mesh's point of view.
struct Compiler<'a> {
    index: &'a Index,
    mesh: &'a str,
    view: &'a MeshView,
}

impl Compiler<'_> {
    fn address(&self, ip: IpAddr) -> Option<(Address, Option<NamespacedName>)> {
        if let Some(name) = self.index.service_at(ip) {
            let service = ServiceRef { namespace: name.namespace.clone(), name: name.name.clone() };
            return Some((Address { target: Some(Target::Service(service)) }, Some(name.clone())));
        }
        let (name, pod) = self.index.pod_at(ip)?;
        let workload = Workload {
            namespace: name.namespace.clone(),
            pod: name.name.clone(),
            spiffe_id: self.identity(name, pod),
            ports: self.ports(name, pod),
            owner: pod.owner.clone(),
        };
        Some((Address { target: Some(Target::Workload(workload)) }, None))
    }

    /// The identity to expect of a pod; empty: it is spoken to in plain, because it has no sidecar or one of another Mesh, whose roots
    /// nobody here trusts.
    fn identity(&self, name: &NamespacedName, pod: &PodView) -> String {
        if pod.mesh.as_deref() != Some(self.mesh) {
            return String::new();
        }
        // Kubernetes' names and a checked trust domain make a SPIFFE ID. Should they ever not, the check of the whole resource fails:
        // a meshed pod is never spoken to in plain instead.
        format!("spiffe://{}/ns/{}/sa/{}", self.view.trust_domain, name.namespace, pod.service_account)
    }

    /// The identity to expect of an endpoint, possibly empty. `None`: its pod is not known yet, or has not got this address, because
    /// one watch is ahead of the other; in plain a meshed pod would refuse its callers, so it is left out for that moment.
    fn endpoint_identity(&self, namespace: &str, endpoint: &EndpointView) -> Option<String> {
        let holder = self.index.pod_at(endpoint.ip);
        if endpoint.pod.is_empty() {
            return Some(holder.map(|(name, pod)| self.identity(name, pod)).unwrap_or_default());
        }
        match holder {
            Some((name, pod)) => {
                (name.namespace == namespace && name.name == endpoint.pod).then(|| self.identity(name, pod))
            }
            None => {
                let pod = self.index.pod(&NamespacedName::new(namespace, endpoint.pod.as_str()))?;
                (pod.host_network && pod.ips.contains(&endpoint.ip)).then(String::new)
            }
        }
    }

    fn ports(&self, name: &NamespacedName, pod: &PodView) -> Vec<PortProtocol> {
        let declared = self.index.declared_ports(name, pod).into_iter();
        declared.map(|(port, protocol)| PortProtocol { port: port.into(), protocol: protocol.into() }).collect()
    }

    /// Exists for every pod, whatever is known of it yet.
    fn inbound(&self, name: &NamespacedName) -> InboundPolicy {
        let mode = if self.view.strict { MtlsMode::Strict } else { MtlsMode::Permissive };
        let ports = self.index.pod(name).map(|pod| self.ports(name, pod)).unwrap_or_default();
        InboundPolicy { mtls_mode: mode.into(), ports }
    }

    fn service(&self, name: &NamespacedName) -> Option<Service> {
        let service = self.index.service(name)?;
        let ports = service
            .ports
            .iter()
            .map(|p| ServicePort { port: p.port.into(), name: p.name.clone(), protocol: Protocol::into(p.protocol) })
            .collect();
        // A dual-stack Service has slices of both families for the same pods: those of its first address' family are taken.
        let family = service.cluster_ips.first().map(IpAddr::is_ipv4);
        let mut groups: BTreeMap<Vec<u32>, BTreeMap<IpAddr, Endpoint>> = BTreeMap::new();
        for slice in self.index.slices(name) {
            let targets = service.ports.iter().map(|p| slice.ports.get(&p.name).copied().unwrap_or(0).into()).collect();
            let group = groups.entry(targets).or_default();
            for endpoint in &slice.endpoints {
                let usable = endpoint.ready || endpoint.draining || service.publish_not_ready;
                if !usable || family.is_some_and(|v4| v4 != endpoint.ip.is_ipv4()) {
                    continue;
                }
                let Some(spiffe_id) = self.endpoint_identity(&name.namespace, endpoint) else { continue };
                let message = endpoint_message(endpoint, spiffe_id, service.local);
                match group.entry(endpoint.ip) {
                    Entry::Vacant(vacant) => drop(vacant.insert(message)),
                    // An endpoint that moves between slices is in both for a moment; ready wins.
                    Entry::Occupied(mut known) if known.get().draining => drop(known.insert(message)),
                    Entry::Occupied(_) => {}
                }
            }
        }
        groups.retain(|_, endpoints| !endpoints.is_empty());
        let groups = groups
            .into_iter()
            .map(|(target_ports, endpoints)| EndpointGroup {
                target_ports,
                endpoints: endpoints.into_values().collect(),
            })
            .collect();
        Some(Service {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            ports,
            groups,
            local: service.local,
            affine: service.affine,
        })
    }
}

fn endpoint_message(endpoint: &EndpointView, spiffe_id: String, local: bool) -> Endpoint {
    // Nobody else asks, and a table is large enough.
    let node_matters = local || !endpoint.for_zones.is_empty();
    Endpoint {
        ip: endpoint.ip.to_string(),
        spiffe_id,
        pod: endpoint.pod.clone(),
        zone: endpoint.zone.clone(),
        draining: endpoint.draining,
        node: if node_matters { endpoint.node.clone() } else { String::new() },
        for_zones: endpoint.for_zones.clone(),
        for_nodes: endpoint.for_nodes.clone(),
    }
}
