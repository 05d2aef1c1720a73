//! Where what the control plane sends becomes what connections read: each encoded resource of an [`Update`] is validated by itself and
//! put into the [`State`] (addresses, Services, inbound policy) or the identity [`Store`] (trust bundle). What is refused leaves the last
//! good one in use. A further type of resource, such as a route, enters the proxy in [`load`], after [`validate`].

use std::sync::Arc;

use super::{resource_name::ResourceName, versions::Versions};
use crate::{
    contract::{
        proto::{Ack, Rejection, Resource, ResourceType, ResourceVersion, Update},
        resource::{Address, Service, ServiceKey},
        validate::{self, ValidResource},
    },
    control::state::{State, Subscription},
    identity::store::Store,
};

/// Applies `update` and acknowledges each resource of a known type that is still wanted.
pub(super) fn apply(update: Update, versions: &mut Versions, state: &State, store: &Store) -> Ack {
    let mut resources = update.resources;
    // An address makes its Service wanted, so addresses go first; the sort is stable.
    resources.sort_by_key(|r| r.r#type == i32::from(ResourceType::Service));
    let mut ack = Ack::default();
    for resource in resources {
        let Some(name) = ResourceName::parse(resource.r#type, &resource.key) else {
            tracing::debug!(kind = resource.r#type, key = resource.key, "a resource that this version does not know");
            continue;
        };
        if matches!(&name, ResourceName::OnDemand(key @ Subscription::Address(_)) if !state.wants(key)) {
            continue;
        }
        let version = ResourceVersion { r#type: resource.r#type, key: resource.key.clone(), version: resource.version };
        let loaded = load(&name, &resource, versions, state, store);
        versions.sent(name, resource.version, loaded.is_ok());
        match loaded {
            Ok(()) => ack.accepted.push(version),
            Err(reason) => {
                tracing::error!(
                    kind = resource.r#type,
                    key = resource.key,
                    error = reason,
                    "a resource is refused; the last good one stays in use"
                );
                ack.rejected.push(Rejection { resource: Some(version), reason });
            }
        }
    }
    ack
}

fn load(
    name: &ResourceName,
    resource: &Resource,
    versions: &mut Versions,
    state: &State,
    store: &Store,
) -> Result<(), String> {
    let checked = if resource.version == 0 {
        None
    } else {
        Some(validate::resource(resource.r#type, &resource.body).map_err(|e| e.to_string())?)
    };
    match (name, checked) {
        (ResourceName::TrustBundle, Some(ValidResource::TrustBundle(bundle))) => {
            store.install_bundle(Arc::unwrap_or_clone(bundle)).map(drop).map_err(|e| e.to_string())
        }
        (ResourceName::InboundPolicy, Some(ValidResource::InboundPolicy(policy))) => {
            state.set_inbound_policy(policy);
            Ok(())
        }
        (ResourceName::TrustBundle | ResourceName::InboundPolicy, None) => {
            Err("it always exists for a member of the mesh; it is not given up".into())
        }
        (ResourceName::OnDemand(Subscription::Address(ip)), None) => {
            state.set_address(*ip, None);
            Ok(())
        }
        (ResourceName::OnDemand(Subscription::Address(ip)), Some(ValidResource::Address(address))) => {
            state.set_address(*ip, Some(Arc::clone(&address)));
            if let Address::Service(key) = &*address
                && let Some(service) = versions.take_parked(key)
            {
                state.set_service(key.clone(), service);
            }
            Ok(())
        }
        (ResourceName::OnDemand(Subscription::Service(key)), None) => service(key, None, versions, state),
        (ResourceName::OnDemand(Subscription::Service(key)), Some(ValidResource::Service(s))) if s.key == *key => {
            service(key, Some(s), versions, state)
        }
        (_, Some(_)) => Err(format!("its body does not belong to its key {:?}", resource.key)),
    }
}

fn service(
    key: &ServiceKey,
    service: Option<Arc<Service>>,
    versions: &mut Versions,
    state: &State,
) -> Result<(), String> {
    if state.wants(&Subscription::Service(key.clone())) {
        state.set_service(key.clone(), service);
        Ok(())
    } else if versions.park(key.clone(), service) {
        Ok(())
    } else {
        Err("too many Services came that no address names".into())
    }
}
