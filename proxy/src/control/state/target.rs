//! What a connection's destination address turned out to be.

use std::sync::Arc;

use tokio::sync::watch;

use crate::contract::resource::{Service, ServiceKey, Workload};

/// What is known of a destination address.
#[derive(Debug, Clone)]
pub enum Target {
    /// Nothing: it is outside the cluster, a node, the API server …; traffic goes there unchanged.
    Outside,
    /// A pod, addressed directly.
    Workload(Arc<Workload>),
    /// A Service; changes of its endpoints arrive in the watch. `None` while (or after) the Service does not exist. The
    /// sender is gone once the Service was forgotten (nobody used it for long): the last value stays valid, resolve again.
    Service(ServiceKey, watch::Receiver<Option<Arc<Service>>>),
}
