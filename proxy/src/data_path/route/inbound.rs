//! Decides about connections to the application of this pod.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use crate::{
    contract::{resource::InboundPolicy, spiffe::SpiffeId},
    control::state::State,
    data_path::{
        connect::{
            endpoint::{Candidate, EndpointKey},
            registry::Endpoints,
        },
        failure::Failure,
        route::{
            connection::{ConnectionRoute, protocol},
            permission,
            request::Route,
        },
    },
    telemetry::metrics::{Direction, Metrics, PLAINTEXT},
};

/// What these decisions are made with.
pub(crate) struct InboundRoutes {
    pub(crate) state: Arc<State>,
    pub(crate) endpoints: Rc<Endpoints>,
    pub(crate) metrics: Arc<Metrics>,
    /// `namespace/name` of this workload, for metrics.
    pub(crate) workload: Rc<str>,
    /// Where connections go, if not to the address that they came to.
    pub(crate) application: Option<SocketAddr>,
}

impl InboundRoutes {
    /// A connection of another proxy that came to `local`, for `port` of the application.
    ///
    /// # Errors
    /// When the peer may not go there.
    pub(crate) fn route_peer(&self, local: IpAddr, port: u16, peer: &SpiffeId) -> Result<Route, Failure> {
        permission::peer_port(peer, port)?;
        let to = SocketAddr::new(local.to_canonical(), port);
        Ok(Route::Direct(self.application(to, peer.as_str())))
    }

    /// What holds for connections without mutual TLS.
    pub(crate) fn policy(&self) -> Arc<InboundPolicy> {
        self.state.inbound_policy()
    }

    /// A connection without mutual TLS that `policy` permits.
    ///
    /// # Errors
    /// When nobody may go there.
    pub(crate) fn route_plaintext(&self, policy: &InboundPolicy, to: SocketAddr) -> Result<ConnectionRoute, Failure> {
        let port = to.port();
        permission::plaintext_port(port)?;
        Ok(ConnectionRoute {
            port,
            declared: protocol(&policy.ports, port),
            route: Route::Plaintext(self.application(to, PLAINTEXT), Arc::clone(&self.state)),
            direction: Direction::Inbound,
            service: Rc::clone(&self.workload),
        })
    }

    fn application(&self, to: SocketAddr, peer: &str) -> Rc<Candidate> {
        let address = self.application.unwrap_or(to);
        let endpoint = self.endpoints.get_direct(EndpointKey { address, identity: None });
        let series = self.metrics.http(Direction::Inbound, &self.workload, peer);
        Rc::new(Candidate { endpoint, series })
    }
}
