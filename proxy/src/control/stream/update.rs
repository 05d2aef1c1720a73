//! Loads an update: every resource is checked by itself, and what is refused leaves the last good one in use.

use std::sync::Arc;

use super::ledger::{Ledger, Name};
use crate::{
    contract::{
        proto::{Ack, Rejection, Resource, ResourceType, ResourceVersion, Update},
        resource::{self, Address},
        validate::{self, ValidResource},
    },
    control::state::{Key, State},
    identity::store::Store,
};

/// Applies `update` and answers for each resource of a known type that is still wanted.
pub(super) fn apply(update: Update, ledger: &mut Ledger, state: &State, store: &Store) -> Ack {
    let mut resources = update.resources;
    // An address makes its Service wanted, so addresses go first; the sort is stable.
    resources.sort_by_key(|r| r.r#type == i32::from(ResourceType::Service));
    let mut ack = Ack::default();
    for resource in resources {
        let Some(name) = Name::parse(resource.r#type, &resource.key) else {
            tracing::debug!(kind = resource.r#type, key = resource.key, "a resource that this version does not know");
            continue;
        };
        if matches!(&name, Name::Key(key @ Key::Address(_)) if !state.wants(key)) {
            continue;
        }
        let version = ResourceVersion { r#type: resource.r#type, key: resource.key.clone(), version: resource.version };
        let loaded = load(&name, &resource, ledger, state, store);
        ledger.sent(name, resource.version, loaded.is_ok());
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

fn load(name: &Name, resource: &Resource, ledger: &mut Ledger, state: &State, store: &Store) -> Result<(), String> {
    let checked = if resource.version == 0 {
        None
    } else {
        Some(validate::resource(resource.r#type, &resource.body).map_err(|e| e.to_string())?)
    };
    match (name, checked) {
        (Name::TrustBundle, Some(ValidResource::TrustBundle(bundle))) => {
            store.install_bundle(Arc::unwrap_or_clone(bundle)).map(drop).map_err(|e| e.to_string())
        }
        (Name::InboundPolicy, Some(ValidResource::InboundPolicy(policy))) => {
            state.set_inbound_policy(policy);
            Ok(())
        }
        (Name::TrustBundle | Name::InboundPolicy, None) => {
            Err("it always exists for a member of the mesh; it is not given up".into())
        }
        (Name::Key(Key::Address(ip)), None) => {
            state.set_address(*ip, None);
            Ok(())
        }
        (Name::Key(Key::Address(ip)), Some(ValidResource::Address(address))) => {
            state.set_address(*ip, Some(Arc::clone(&address)));
            if let Address::Service(key) = &*address
                && let Some(service) = ledger.take_parked(key)
            {
                state.set_service(key.clone(), service);
            }
            Ok(())
        }
        (Name::Key(Key::Service(key)), None) => service(key, None, ledger, state),
        (Name::Key(Key::Service(key)), Some(ValidResource::Service(s))) if s.key == *key => {
            service(key, Some(s), ledger, state)
        }
        (_, Some(_)) => Err(format!("its body does not belong to its key {:?}", resource.key)),
    }
}

fn service(
    key: &resource::ServiceKey,
    service: Option<Arc<resource::Service>>,
    ledger: &mut Ledger,
    state: &State,
) -> Result<(), String> {
    if state.wants(&Key::Service(key.clone())) {
        state.set_service(key.clone(), service);
        Ok(())
    } else if ledger.park(key.clone(), service) {
        Ok(())
    } else {
        Err("too many Services came that no address names".into())
    }
}
