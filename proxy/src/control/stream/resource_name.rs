//! Names of resources, as the wire writes them and as the proxy reads them.

use std::net::IpAddr;

use crate::{
    contract::{
        proto::{ResourceKey, ResourceType, ResourceVersion},
        resource::ServiceKey,
    },
    control::state::Subscription,
};

/// A resource as the stream names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum ResourceName {
    /// The trust bundle.
    TrustBundle,
    /// The inbound policy.
    InboundPolicy,
    /// What is subscribed to because it is in use.
    OnDemand(Subscription),
}

impl ResourceName {
    /// Reads the name of a resource; `None`: of no type or form that this version knows.
    #[must_use]
    pub(super) fn parse(kind: i32, key: &str) -> Option<Self> {
        match ResourceType::try_from(kind).ok()? {
            ResourceType::TrustBundle => key.is_empty().then_some(Self::TrustBundle),
            ResourceType::InboundPolicy => key.is_empty().then_some(Self::InboundPolicy),
            ResourceType::Address => {
                key.parse().ok().map(|ip: IpAddr| Self::OnDemand(Subscription::Address(ip.to_canonical())))
            }
            ResourceType::Service => {
                let (namespace, name) = key.split_once('/')?;
                Some(Self::OnDemand(Subscription::Service(ServiceKey {
                    namespace: namespace.into(),
                    name: name.into(),
                })))
            }
            ResourceType::Unspecified => None,
        }
    }

    /// Its type.
    #[must_use]
    pub(super) fn kind(&self) -> ResourceType {
        match self {
            Self::TrustBundle => ResourceType::TrustBundle,
            Self::InboundPolicy => ResourceType::InboundPolicy,
            Self::OnDemand(Subscription::Address(_)) => ResourceType::Address,
            Self::OnDemand(Subscription::Service(_)) => ResourceType::Service,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::TrustBundle | Self::InboundPolicy => String::new(),
            Self::OnDemand(Subscription::Address(ip)) => ip.to_string(),
            Self::OnDemand(Subscription::Service(key)) => key.to_string(),
        }
    }

    pub(super) fn to_key(&self) -> ResourceKey {
        ResourceKey { r#type: self.kind().into(), key: self.text() }
    }

    pub(super) fn to_version(&self, version: u64) -> ResourceVersion {
        ResourceVersion { r#type: self.kind().into(), key: self.text(), version }
    }
}
