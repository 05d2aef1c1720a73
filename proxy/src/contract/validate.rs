//! Decodes resources of the control stream and validates them: bytes come in, domain types ([`resource`](super::resource)) go out. The
//! operator runs the same code on everything before it ships it, so a proxy never receives what it cannot load; the proxy runs it again,
//! because it trusts nobody.

use std::{net::IpAddr, sync::Arc};

use prost::Message;

use crate::contract::{
    proto::{self, MtlsMode, ResourceType},
    resource::{
        Address, Bundle, Endpoint, InboundPolicy, Protocol, Selection, Service, ServiceKey, ServicePort, Workload,
    },
    spiffe::{SpiffeError, SpiffeId, is_trust_domain},
};

/// Largest encoded resource, in bytes: a Service with about 20,000 endpoints.
pub const MAX_RESOURCE_BYTES: usize = 4 << 20;
/// Most roots in a trust bundle; as many issuing CAs and revoked roots.
pub const MAX_ROOTS: usize = 16;
/// Longest time over which renewals are spread, in seconds.
pub const MAX_RENEW_WITHIN: u32 = 3600;

/// Why a resource is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResource {
    /// Larger than [`MAX_RESOURCE_BYTES`].
    #[error("resource of {0} bytes is too large: at most {MAX_RESOURCE_BYTES} bytes are allowed")]
    TooLarge(usize),
    /// No valid protobuf of its type.
    #[error("resource cannot be decoded: {0}")]
    Decode(String),
    /// A type of a newer control plane; to be ignored.
    #[error("resource type {0} is unknown to this version")]
    UnknownType(i32),
    /// A field holds what it must not.
    #[error("field {field} holds {value:?}: {expected}")]
    Field {
        /// Path of the field in the message.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A SPIFFE ID is malformed.
    #[error(transparent)]
    Spiffe(#[from] SpiffeError),
}

/// A resource that is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValidResource {
    /// See [`Bundle`].
    TrustBundle(Arc<Bundle>),
    /// See [`InboundPolicy`].
    InboundPolicy(Arc<InboundPolicy>),
    /// See [`Address`].
    Address(Arc<Address>),
    /// See [`Service`].
    Service(Arc<Service>),
}

/// Decodes and validates one resource of the stream.
///
/// # Errors
/// Says which field holds what, and what it should hold.
pub fn resource(kind: i32, body: &[u8]) -> Result<ValidResource, InvalidResource> {
    if body.len() > MAX_RESOURCE_BYTES {
        return Err(InvalidResource::TooLarge(body.len()));
    }
    match ResourceType::try_from(kind) {
        Ok(ResourceType::TrustBundle) => Ok(ValidResource::TrustBundle(Arc::new(trust_bundle(decode(body)?)?))),
        Ok(ResourceType::InboundPolicy) => Ok(ValidResource::InboundPolicy(Arc::new(inbound_policy(&decode(body)?)?))),
        Ok(ResourceType::Address) => Ok(ValidResource::Address(Arc::new(address(decode(body)?)?))),
        Ok(ResourceType::Service) => Ok(ValidResource::Service(Arc::new(service(decode(body)?)?))),
        Ok(ResourceType::Unspecified) | Err(_) => Err(InvalidResource::UnknownType(kind)),
    }
}

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, InvalidResource> {
    M::decode(body).map_err(|e| InvalidResource::Decode(e.to_string()))
}

/// Validates a trust bundle, as it also comes with a leaf.
///
/// # Errors
/// When the trust domain is invalid or there are more than [`MAX_ROOTS`] roots.
pub fn trust_bundle(b: proto::TrustBundle) -> Result<Bundle, InvalidResource> {
    if !is_trust_domain(&b.trust_domain) {
        return Err(SpiffeError::TrustDomain(b.trust_domain).into());
    }
    if b.roots_der.len() > MAX_ROOTS {
        let value = b.roots_der.len().to_string();
        return Err(InvalidResource::Field { field: "roots_der", value, expected: "at most 16 certificates" });
    }
    Ok(Bundle {
        trust_domain: b.trust_domain,
        sequence: b.sequence,
        roots: b.roots_der,
        issuers: digests("issuers_sha256", b.issuers_sha256)?,
        renew_within_seconds: b.renew_within_seconds.min(MAX_RENEW_WITHIN),
        revoked: digests("revoked_sha256", b.revoked_sha256)?,
    })
}

fn digests(field: &'static str, all: Vec<Vec<u8>>) -> Result<Vec<[u8; 32]>, InvalidResource> {
    if all.len() > MAX_ROOTS {
        return Err(InvalidResource::Field { field, value: all.len().to_string(), expected: "at most 16 digests" });
    }
    let digest = |d: Vec<u8>| {
        let bytes = d.len();
        <[u8; 32]>::try_from(d).map_err(|_| InvalidResource::Field {
            field,
            value: format!("{bytes} bytes"),
            expected: "the 32 bytes of a SHA-256",
        })
    };
    all.into_iter().map(digest).collect()
}

fn inbound_policy(p: &proto::InboundPolicy) -> Result<InboundPolicy, InvalidResource> {
    let strict = match p.mtls_mode() {
        MtlsMode::Permissive => false,
        MtlsMode::Strict => true,
        MtlsMode::Unspecified => {
            return Err(InvalidResource::Field {
                field: "mtls_mode",
                value: p.mtls_mode.to_string(),
                expected: "PERMISSIVE or STRICT",
            });
        }
    };
    Ok(InboundPolicy { strict, ports: port_protocols(&p.ports)? })
}

fn address(a: proto::Address) -> Result<Address, InvalidResource> {
    match a.target {
        Some(proto::address::Target::Service(s)) => {
            Ok(Address::Service(ServiceKey { namespace: s.namespace, name: s.name }))
        }
        Some(proto::address::Target::Workload(w)) => Ok(Address::Workload(Workload {
            ports: port_protocols(&w.ports)?,
            identity: identity(&w.spiffe_id)?,
            namespace: w.namespace,
            // Operators of earlier versions do not tell.
            owner: if w.owner.is_empty() { w.pod.clone() } else { w.owner },
            pod: w.pod,
        })),
        None => {
            Err(InvalidResource::Field { field: "target", value: String::new(), expected: "a service or a workload" })
        }
    }
}

fn service(s: proto::Service) -> Result<Service, InvalidResource> {
    let mut ports = s
        .ports
        .iter()
        .map(|p| {
            Ok(ServicePort {
                port: port("ports.port", p.port)?,
                name: p.name.clone(),
                protocol: p.protocol(),
                endpoints: Vec::new(),
            })
        })
        .collect::<Result<Vec<_>, InvalidResource>>()?;
    for group in s.groups {
        if group.target_ports.len() != ports.len() {
            let value = group.target_ports.len().to_string();
            return Err(InvalidResource::Field { field: "groups.target_ports", value, expected: "one for each port" });
        }
        for e in group.endpoints {
            let ip: IpAddr = e.ip.parse().map_err(|_| InvalidResource::Field {
                field: "endpoints.ip",
                value: e.ip.clone(),
                expected: "an IP address",
            })?;
            let identity = identity(&e.spiffe_id)?;
            for (into, target) in ports.iter_mut().zip(&group.target_ports) {
                if *target != 0 {
                    into.endpoints.push(Endpoint {
                        ip,
                        port: port("groups.target_ports", *target)?,
                        identity: identity.clone(),
                        pod: e.pod.clone(),
                        zone: e.zone.clone(),
                        node: e.node.clone(),
                        for_zones: e.for_zones.clone(),
                        for_nodes: e.for_nodes.clone(),
                        draining: e.draining,
                    });
                }
            }
        }
    }
    ports.sort_by_key(|p| p.port);
    let selection = Selection { local: s.local, affine: s.affine };
    Ok(Service { key: ServiceKey { namespace: s.namespace, name: s.name }, ports, selection })
}

fn identity(uri: &str) -> Result<Option<SpiffeId>, InvalidResource> {
    if uri.is_empty() { Ok(None) } else { Ok(Some(uri.parse()?)) }
}

fn port(field: &'static str, n: u32) -> Result<u16, InvalidResource> {
    u16::try_from(n).ok().filter(|p| *p != 0).ok_or_else(|| InvalidResource::Field {
        field,
        value: n.to_string(),
        expected: "a port, 1 to 65535",
    })
}

fn port_protocols(list: &[proto::PortProtocol]) -> Result<Vec<(u16, Protocol)>, InvalidResource> {
    let mut out = list
        .iter()
        .map(|p| Ok((port("ports.port", p.port)?, p.protocol())))
        .collect::<Result<Vec<_>, InvalidResource>>()?;
    out.sort_by_key(|(p, _)| *p);
    out.dedup_by_key(|(p, _)| *p);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(m: &impl Message) -> Vec<u8> {
        m.encode_to_vec()
    }

    #[test]
    fn endpoints_are_spread_over_ports_they_offer() {
        let s = proto::Service {
            namespace: "n".into(),
            name: "s".into(),
            ports: vec![
                proto::ServicePort { port: 81, name: "b".into(), protocol: Protocol::Tcp.into() },
                proto::ServicePort { port: 80, name: "a".into(), protocol: Protocol::Http1.into() },
            ],
            groups: vec![proto::EndpointGroup {
                target_ports: vec![0, 8080],
                endpoints: vec![proto::Endpoint { ip: "10.0.0.1".into(), ..Default::default() }],
            }],
            ..Default::default()
        };
        let ValidResource::Service(s) = resource(ResourceType::Service.into(), &encoded(&s)).unwrap() else {
            panic!("type")
        };
        assert_eq!(s.ports[0].port, 80);
        assert_eq!(s.ports[0].endpoints[0].port, 8080);
        assert!(s.ports[1].endpoints.is_empty());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let unspecified = proto::InboundPolicy::default();
        assert!(resource(ResourceType::InboundPolicy.into(), &encoded(&unspecified)).is_err());
        assert_eq!(resource(99, &[]), Err(InvalidResource::UnknownType(99)));
        let huge = vec![0; MAX_RESOURCE_BYTES + 1];
        assert_eq!(resource(1, &huge), Err(InvalidResource::TooLarge(huge.len())));
    }

    #[test]
    fn a_pod_without_owner_is_its_own() {
        let owner = |owner: &str| {
            let workload = proto::Workload { pod: "web-1".into(), owner: owner.into(), ..Default::default() };
            let target = Some(proto::address::Target::Workload(workload));
            let checked = resource(ResourceType::Address.into(), &encoded(&proto::Address { target })).unwrap();
            let ValidResource::Address(address) = checked else { panic!("type") };
            let Address::Workload(workload) = address.as_ref() else { panic!("no pod") };
            workload.owner.clone()
        };
        assert_eq!((owner("web"), owner("")), ("web".into(), "web-1".into()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(kind in -1..9, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = resource(kind, &body);
        }
    }
}
