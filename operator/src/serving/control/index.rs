//! Which pod or Service is behind an address, and which resources a change touches. Pure: views in, names of touched resources out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use bowline_proxy::contract::proto::Protocol;

use super::view::{MeshView, PodView, ServiceView, SliceView, Target};
use crate::cluster::namespaced_name::NamespacedName;

/// A resource that a change touches, in every Mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// What stands behind an address.
    Address(IpAddr),
    /// A Service and its endpoints.
    Service(NamespacedName),
    /// What a pod demands of its callers.
    Inbound(NamespacedName),
}

/// Subjects that a change touches.
pub type Touched = BTreeSet<Subject>;

/// Everything that resources are compiled from, except trust bundles.
#[derive(Debug, Default, Clone)]
pub struct Index {
    meshes: BTreeMap<String, MeshView>,
    pods: BTreeMap<NamespacedName, PodView>,
    services: BTreeMap<NamespacedName, ServiceView>,
    slices: HashMap<NamespacedName, SliceView>,
    pods_at: HashMap<IpAddr, BTreeSet<NamespacedName>>,
    services_at: HashMap<IpAddr, BTreeSet<NamespacedName>>,
    slices_of: HashMap<NamespacedName, BTreeSet<NamespacedName>>,
    slices_at: HashMap<IpAddr, BTreeSet<NamespacedName>>,
}

impl Index {
    /// A Mesh as it is now; `None`: it is gone.
    pub fn set_mesh(&mut self, name: &str, mesh: Option<MeshView>) -> Touched {
        if self.meshes.get(name) == mesh.as_ref() {
            return Touched::new();
        }
        match mesh {
            Some(mesh) => self.meshes.insert(name.to_owned(), mesh),
            None => self.meshes.remove(name),
        };
        let members = self.pods.iter().filter(|(_, p)| p.mesh.as_deref() == Some(name));
        members.flat_map(|(name, pod)| self.touched_by_pod(name, pod)).collect()
    }

    /// A pod as it is now; `None`: nothing at any address belongs to it.
    pub fn set_pod(&mut self, name: &NamespacedName, pod: Option<PodView>) -> Touched {
        if self.pods.get(name) == pod.as_ref() {
            return Touched::new();
        }
        let mut touched = Touched::new();
        if let Some(old) = self.pods.remove(name) {
            touched.extend(self.touched_by_pod(name, &old));
            for ip in &old.ips {
                unlink(&mut self.pods_at, ip, name);
            }
        }
        if let Some(new) = pod {
            touched.extend(self.touched_by_pod(name, &new));
            for ip in new.ips.iter().filter(|_| !new.host_network) {
                self.pods_at.entry(*ip).or_default().insert(name.clone());
            }
            self.pods.insert(name.clone(), new);
        }
        touched
    }

    /// A Service as it is now; `None`: it is gone, or an alias.
    pub fn set_service(&mut self, name: &NamespacedName, service: Option<ServiceView>) -> Touched {
        if self.services.get(name) == service.as_ref() {
            return Touched::new();
        }
        let mut touched = Touched::from([Subject::Service(name.clone())]);
        if let Some(old) = self.services.remove(name) {
            touched.extend(self.touched_by_service(name, &old));
            for ip in &old.cluster_ips {
                unlink(&mut self.services_at, ip, name);
            }
        }
        if let Some(new) = service {
            touched.extend(self.touched_by_service(name, &new));
            for ip in &new.cluster_ips {
                self.services_at.entry(*ip).or_default().insert(name.clone());
            }
            self.services.insert(name.clone(), new);
        }
        touched
    }

    /// An EndpointSlice as it is now; `None`: it is gone, or of no use.
    pub fn set_slice(&mut self, name: &NamespacedName, slice: Option<SliceView>) -> Touched {
        if self.slices.get(name) == slice.as_ref() {
            return Touched::new();
        }
        let mut touched = Touched::new();
        if let Some(old) = self.slices.remove(name) {
            unlink(&mut self.slices_of, &old.service, name);
            for endpoint in &old.endpoints {
                unlink(&mut self.slices_at, &endpoint.ip, name);
            }
            touched.insert(Subject::Service(old.service));
        }
        if let Some(new) = slice {
            self.slices_of.entry(new.service.clone()).or_default().insert(name.clone());
            for endpoint in &new.endpoints {
                self.slices_at.entry(endpoint.ip).or_default().insert(name.clone());
            }
            touched.insert(Subject::Service(new.service.clone()));
            self.slices.insert(name.clone(), new);
        }
        touched
    }

    /// Its addresses, its own policy, and the Services that it serves.
    fn touched_by_pod(&self, name: &NamespacedName, pod: &PodView) -> Touched {
        let addresses = pod.ips.iter().map(|ip| Subject::Address(*ip));
        let slices = pod.ips.iter().filter_map(|ip| self.slices_at.get(ip)).flatten();
        let services = slices.filter_map(|s| self.slices.get(s)).map(|s| Subject::Service(s.service.clone()));
        addresses.chain(services).chain([Subject::Inbound(name.clone())]).collect()
    }

    /// Its addresses, and what the pods that it selects declare.
    fn touched_by_service(&self, name: &NamespacedName, service: &ServiceView) -> Touched {
        let addresses = service.cluster_ips.iter().map(|ip| Subject::Address(*ip));
        let selected = self.pods_in(&name.namespace).filter(|(_, pod)| service.selects(&pod.labels));
        let declared = selected.flat_map(|(name, pod)| {
            pod.ips.iter().map(|ip| Subject::Address(*ip)).chain([Subject::Inbound(name.clone())])
        });
        addresses.chain(declared).collect()
    }

    fn pods_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a NamespacedName, &'a PodView)> {
        self.pods.range(NamespacedName::new(namespace, "")..).take_while(move |(name, _)| name.namespace == namespace)
    }

    /// A Mesh.
    #[must_use]
    pub fn mesh(&self, name: &str) -> Option<&MeshView> {
        self.meshes.get(name)
    }

    /// Names of all Meshes.
    pub fn mesh_names(&self) -> impl Iterator<Item = &String> {
        self.meshes.keys()
    }

    /// A pod.
    #[must_use]
    pub fn pod(&self, name: &NamespacedName) -> Option<&PodView> {
        self.pods.get(name)
    }

    /// Names of all pods.
    pub fn pod_names(&self) -> impl Iterator<Item = &NamespacedName> {
        self.pods.keys()
    }

    /// A Service.
    #[must_use]
    pub fn service(&self, name: &NamespacedName) -> Option<&ServiceView> {
        self.services.get(name)
    }

    /// Names of all Services.
    pub fn service_names(&self) -> impl Iterator<Item = &NamespacedName> {
        self.services.keys()
    }

    /// The slices of a Service, by name.
    pub fn slices(&self, service: &NamespacedName) -> impl Iterator<Item = &SliceView> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    /// The Service that an address stands for.
    #[must_use]
    pub fn service_at(&self, ip: IpAddr) -> Option<&NamespacedName> {
        self.services_at.get(&ip)?.first()
    }

    /// The pod that has an address: the youngest, while an older one that had it goes.
    #[must_use]
    pub fn pod_at(&self, ip: IpAddr) -> Option<(&NamespacedName, &PodView)> {
        let holders = self.pods_at.get(&ip)?.iter().filter_map(|name| Some((name, self.pods.get(name)?)));
        holders.max_by_key(|(name, pod)| (pod.created, *name))
    }

    /// Protocols that Services declare for the ports of a pod. Where two contradict each other, nothing is declared.
    #[must_use]
    pub fn declared_ports(&self, name: &NamespacedName, pod: &PodView) -> BTreeMap<u16, Protocol> {
        let mut declared: BTreeMap<u16, Protocol> = BTreeMap::new();
        let namespace = NamespacedName::new(name.namespace.as_str(), "");
        let services = self.services.range(namespace..).take_while(|(s, _)| s.namespace == name.namespace);
        let ports = services.filter(|(_, s)| s.selects(&pod.labels)).flat_map(|(_, s)| &s.ports);
        for port in ports.filter(|p| p.protocol != Protocol::Detect) {
            let number = match &port.target {
                Target::Number(number) => Some(*number),
                Target::Named(name) => pod.ports.get(name).copied(),
            };
            let Some(number) = number else { continue };
            let protocol = declared.entry(number).or_insert(port.protocol);
            if *protocol != port.protocol {
                *protocol = Protocol::Detect;
            }
        }
        declared.retain(|_, protocol| *protocol != Protocol::Detect);
        declared
    }
}

fn unlink<K: std::hash::Hash + Eq>(map: &mut HashMap<K, BTreeSet<NamespacedName>>, key: &K, name: &NamespacedName) {
    if let Some(names) = map.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            map.remove(key);
        }
    }
}
