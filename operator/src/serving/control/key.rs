//! What a proxy can subscribe to, as it is called on the wire.

use std::net::IpAddr;

use bowline_proxy::contract::proto::ResourceType;

use super::index::Subject;
use crate::cluster::namespaced_name::NamespacedName;

/// A resource of one Mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The Mesh's trust bundle.
    Bundle,
    /// Everything else.
    Subject(Subject),
}

impl Key {
    /// Type on the wire.
    #[must_use]
    pub fn kind(&self) -> ResourceType {
        match self {
            Self::Bundle => ResourceType::TrustBundle,
            Self::Subject(Subject::Inbound(_)) => ResourceType::InboundPolicy,
            Self::Subject(Subject::Address(_)) => ResourceType::Address,
            Self::Subject(Subject::Service(_)) => ResourceType::Service,
        }
    }

    /// Key on the wire.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Bundle | Self::Subject(Subject::Inbound(_)) => String::new(),
            Self::Subject(Subject::Address(ip)) => ip.to_string(),
            Self::Subject(Subject::Service(name)) => name.to_string(),
        }
    }

    /// Reads a key that a proxy may name; `None`: of a type or form that this version does not know.
    #[must_use]
    pub fn parse(kind: i32, key: &str, pod: &NamespacedName) -> Option<Self> {
        match ResourceType::try_from(kind).ok()? {
            ResourceType::TrustBundle if key.is_empty() => Some(Self::Bundle),
            ResourceType::InboundPolicy if key.is_empty() => Some(Self::Subject(Subject::Inbound(pod.clone()))),
            ResourceType::Address => {
                let ip: IpAddr = key.parse().ok()?;
                Some(Self::Subject(Subject::Address(ip.to_canonical())))
            }
            ResourceType::Service => {
                let (namespace, name) = key.split_once('/').filter(|(ns, name)| ns.len() <= 63 && name.len() <= 253)?;
                Some(Self::Subject(Subject::Service(NamespacedName::new(namespace, name))))
            }
            _ => None,
        }
    }
}

/// Name of a resource type in metrics and logs.
#[must_use]
pub fn type_name(kind: ResourceType) -> &'static str {
    match kind {
        ResourceType::TrustBundle => "trust_bundle",
        ResourceType::InboundPolicy => "inbound_policy",
        ResourceType::Address => "address",
        ResourceType::Service => "service",
        ResourceType::Unspecified => "unknown",
    }
}
