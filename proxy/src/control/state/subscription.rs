//! What the control stream subscribes to on demand.

use std::net::IpAddr;

use crate::contract::resource::ServiceKey;

/// A resource that the control stream subscribes to because it is in use.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subscription {
    /// An address.
    Address(IpAddr),
    /// A Service, wanted because an address names it.
    Service(ServiceKey),
}

/// What to subscribe and unsubscribe since it was last asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SubscriptionDelta {
    /// Newly wanted. A Service is in it only if it did not come with the address that names it.
    pub add: Vec<Subscription>,
    /// No longer wanted, to be sent first: what is in both was dropped and is wanted again, from the beginning.
    pub remove: Vec<Subscription>,
}
