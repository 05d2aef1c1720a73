//! What the proxy knows of the mesh, filled by the control stream and read by the data plane.
//!
//! Readers take an [`Arc`] once per connection or per change, never per request. A destination that nobody asked for yet is
//! subscribed on first use; without a control plane, what was ever known stays valid.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::apply::{Address, InboundPolicy, Service, ServiceKey};

/// Most addresses that are held at once; the longest unused make room.
pub const MAX_ADDRESSES: usize = 8192;
/// How long a first use of a destination waits for the control plane.
pub const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

/// What is known of a destination address.
#[derive(Debug, Clone)]
pub enum Target {
    /// Nothing: it is outside the cluster, a node, the API server …; traffic goes there unchanged.
    Outside,
    /// A pod, addressed directly.
    Workload(Arc<Address>),
    /// A Service; changes of its endpoints arrive in the watch. `None` while (or after) the Service does not exist.
    Service(ServiceKey, watch::Receiver<Option<Arc<Service>>>),
}

/// The control plane could not be asked about a destination that was never asked for before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing is known of {0} and the control plane did not answer within {RESOLVE_DEADLINE:?}")]
pub struct Unavailable(pub IpAddr);

/// Everything the data plane reads.
#[derive(Debug)]
pub struct State {
    inbound: ArcSwapOption<InboundPolicy>,
    tables: Mutex<Tables>,
    /// Wakes the stream when something is to be (un)subscribed.
    wanted: watch::Sender<u64>,
    /// Bumped with every change of an address, so that connections re-resolve.
    generation: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Tables {
    addresses: HashMap<IpAddr, Slot>,
    services: HashMap<ServiceKey, watch::Sender<Option<Arc<Service>>>>,
}

#[derive(Debug)]
struct Slot {
    known: watch::Sender<Option<Option<Arc<Address>>>>,
    used: std::time::Instant,
}

impl State {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Nothing panics while the lock is held; should it, the tables are still whole.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
