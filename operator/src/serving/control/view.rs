//! What of Kubernetes' objects matters to proxies. Two objects with equal views are the same to every proxy.

use std::{collections::BTreeMap, net::IpAddr};

use bowline_crds::{Mesh, mesh::MtlsMode};
use bowline_proxy::contract::proto::Protocol;
use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;

use super::app_protocol;
use crate::cluster::{mesh::in_force::mode_in_force, namespaced_name::NamespacedName, pod::injected_mesh, workload};

/// Label of an EndpointSlice: the Service that it belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A Mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshView {
    /// Its trust domain.
    pub trust_domain: String,
    /// Whether plaintext is refused.
    pub strict: bool,
}

impl MeshView {
    /// Of a Mesh.
    #[must_use]
    pub fn of(mesh: &Mesh) -> Self {
        Self { trust_domain: mesh.spec.trust_domain.clone(), strict: mode_in_force(mesh) == MtlsMode::Strict }
    }
}

/// A pod that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Whether these are the node's, so that not everything there is this pod.
    pub host_network: bool,
    /// Its service account.
    pub service_account: String,
    /// Name of the Mesh whose sidecar it carries.
    pub mesh: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Named TCP ports of its containers.
    pub ports: BTreeMap<String, u16>,
    /// Name of the workload that made it; empty: it has no other than its own.
    pub owner: String,
    /// Seconds since the Unix epoch: the younger of two pods with one address is the one that has it.
    pub created: i64,
}

impl PodView {
    /// Of a pod; `None`: it has ended, so that nothing at any address belongs to it.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let mut ips: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|ip| address(&ip.ip)).collect();
        ips.extend(status.pod_ip.as_deref().and_then(address));
        ips.sort_unstable();
        ips.dedup();
        let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let ports = sidecars
            .chain(&spec.containers)
            .flat_map(|c| c.ports.iter().flatten())
            .filter(|p| is_tcp(p.protocol.as_deref()))
            .filter_map(|p| Some((p.name.clone()?, port(p.container_port)?)))
            .collect();
        let account = spec.service_account_name.as_deref().filter(|a| !a.is_empty()).unwrap_or("default");
        Some(Self {
            ips,
            host_network: spec.host_network == Some(true),
            service_account: account.to_owned(),
            mesh: injected_mesh(pod).map(ToOwned::to_owned),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ports,
            owner: Some(workload::name(pod)).filter(|name| *name != pod.name_any()).unwrap_or_default(),
            created: pod.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        })
    }
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    /// Its virtual addresses; none, when it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Which pods it selects; empty: none.
    pub selector: BTreeMap<String, String>,
    /// Its TCP ports, ascending.
    pub ports: Vec<PortView>,
    /// Whether pods that are not ready are offered too.
    pub publish_not_ready: bool,
    /// Whether a caller may use endpoints of its own node only.
    pub local: bool,
    /// Whether a caller is always sent to the same endpoint.
    pub affine: bool,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortView {
    /// Number.
    pub port: u16,
    /// Name, possibly empty.
    pub name: String,
    /// Declared protocol.
    pub protocol: Protocol,
    /// Where pods listen for it.
    pub target: Target,
}

/// Where pods listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// At this port.
    Number(u16),
    /// At the port of this name.
    Named(String),
}

impl ServiceView {
    /// Of a Service; `None`: it only is a DNS alias.
    #[must_use]
    pub fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let mut cluster_ips: Vec<IpAddr> = Vec::new();
        for ip in spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| address(ip)) {
            if !cluster_ips.contains(&ip) {
                cluster_ips.push(ip);
            }
        }
        let mut ports: Vec<PortView> = spec
            .ports
            .iter()
            .flatten()
            .filter(|p| is_tcp(p.protocol.as_deref()))
            .filter_map(|p| {
                let number = port(p.port)?;
                let name = p.name.clone().unwrap_or_default();
                let target = match &p.target_port {
                    Some(IntOrString::String(name)) => Target::Named(name.clone()),
                    Some(IntOrString::Int(target)) if *target != 0 => Target::Number(port(*target)?),
                    _ => Target::Number(number),
                };
                let protocol = app_protocol::declared(p.app_protocol.as_deref(), &name);
                Some(PortView { port: number, name, protocol, target })
            })
            .collect();
        ports.sort_by_key(|p| p.port);
        Some(Self {
            cluster_ips,
            selector: spec.selector.clone().unwrap_or_default(),
            ports,
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
            local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            affine: spec.session_affinity.as_deref() == Some("ClientIP"),
        })
    }

    /// Whether it selects a pod with these labels.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(k, v)| labels.get(k) == Some(v))
    }
}

/// Some of a Service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceView {
    /// The Service.
    pub service: NamespacedName,
    /// TCP ports by name; `None`: all ports, which nothing here can mean.
    pub ports: BTreeMap<String, u16>,
    /// Who listens there.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointView {
    /// Its address.
    pub ip: IpAddr,
    /// Name of the pod that it is, possibly empty.
    pub pod: String,
    /// Topology zone, possibly empty.
    pub zone: String,
    /// Name of the node, possibly empty.
    pub node: String,
    /// Zones whose callers are to use it, ascending; none: no hint.
    pub for_zones: Vec<String>,
    /// Nodes whose callers are to use it, ascending; none: no hint.
    pub for_nodes: Vec<String>,
    /// Whether it may be given something new.
    pub ready: bool,
    /// Whether it finishes what it has.
    pub draining: bool,
}

impl SliceView {
    /// Of an EndpointSlice; `None`: it belongs to no Service, or holds no addresses.
    #[must_use]
    pub fn of(slice: &EndpointSlice) -> Option<Self> {
        let service = slice.labels().get(SERVICE_LABEL)?;
        if slice.address_type == "FQDN" {
            return None;
        }
        let ports = slice
            .ports
            .iter()
            .flatten()
            .filter(|p| is_tcp(p.protocol.as_deref()))
            .filter_map(|p| Some((p.name.clone().unwrap_or_default(), port(p.port?)?)))
            .collect();
        let endpoints = slice
            .endpoints
            .iter()
            .filter_map(|e| {
                let conditions = e.conditions.clone().unwrap_or_default();
                let ready = conditions.ready.unwrap_or(true);
                let terminating = conditions.terminating.unwrap_or(false);
                let hints = e.hints.clone().unwrap_or_default();
                let pod = e.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"));
                Some(EndpointView {
                    // Consumers take the first address (discovery/v1, Endpoint.addresses).
                    ip: address(e.addresses.first()?)?,
                    pod: pod.and_then(|t| t.name.clone()).unwrap_or_default(),
                    zone: e.zone.clone().unwrap_or_default(),
                    node: e.node_name.clone().unwrap_or_default(),
                    for_zones: hinted(hints.for_zones.into_iter().flatten().map(|zone| zone.name)),
                    for_nodes: hinted(hints.for_nodes.into_iter().flatten().map(|node| node.name)),
                    ready: ready && !terminating,
                    draining: terminating && conditions.serving.unwrap_or(ready),
                })
            })
            .collect();
        Some(Self { service: NamespacedName::new(slice.namespace()?, service), ports, endpoints })
    }
}

/// In one order, whatever order they came in.
fn hinted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// An address in its canonical form; headless Services say `None`.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|p| *p != 0)
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|p| p == "TCP")
}
