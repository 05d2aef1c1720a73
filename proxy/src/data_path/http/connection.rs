//! What all requests of a connection share.

use std::{
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
};

use crate::{
    contract::tunnel::App,
    data_path::{
        drain::Drain, limits::connections::ConnectionPermit, observe::reporter::Reporter, route::request::Route,
    },
    telemetry::metrics::Direction,
};

/// See the module.
pub(crate) struct ConnectionContext {
    pub(crate) route: Route,
    pub(crate) direction: Direction,
    /// What the application at the far end speaks.
    pub(crate) app: App,
    /// `namespace/name` of the service, for metrics.
    pub(crate) service: Rc<str>,
    /// Counts tunnels from other proxies.
    pub(crate) tunnels: Option<Arc<AtomicU64>>,
    pub(crate) reporter: Rc<Reporter>,
    /// Ends tunnels.
    pub(crate) drain: Arc<Drain>,
    /// Held until the connection, and what becomes of it after an upgrade, is over.
    pub(crate) _permit: ConnectionPermit,
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{
        data_path::connect::{
            dial::Dialer,
            endpoint::{Candidate, Endpoint, EndpointKey},
        },
        identity::store::Store,
        telemetry::metrics::{Metrics, PLAINTEXT},
    };

    impl ConnectionContext {
        /// Its requests go to this address, to which so many connections may be open.
        pub(crate) fn to_address(address: SocketAddr, max_connections: usize) -> (Self, Rc<Endpoint>) {
            let (metrics, drain) = (Metrics::new(), Drain::new());
            let series = metrics.http(Direction::Outbound, "a/b", PLAINTEXT);
            let dialer = Rc::new(Dialer::new(Store::new(), Arc::clone(&drain)));
            let key = EndpointKey { address, identity: None };
            let endpoint = Rc::new(Endpoint::new(key, dialer, 1, max_connections));
            let context = Self {
                route: Route::Direct(Rc::new(Candidate { endpoint: Rc::clone(&endpoint), series })),
                direction: Direction::Outbound,
                app: App::Http1,
                service: "a/b".into(),
                tunnels: None,
                reporter: Rc::new(Reporter::new(metrics)),
                drain,
                _permit: ConnectionPermit::none(),
            };
            (context, endpoint)
        }
    }
}
