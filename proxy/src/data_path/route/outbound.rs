//! Decides about connections that the application opens: resolve → route.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use crate::{
    contract::{bootstrap::ports, reason::Reason, resource::Workload},
    control::state::{State, Target},
    data_path::{
        balance::registry::Balancers,
        connect::{
            endpoint::{Candidate, EndpointKey},
            registry::Endpoints,
        },
        failure::Failure,
        route::{
            connection::{ConnectionRoute, protocol},
            pod::Pod,
            request::Route,
        },
    },
    telemetry::metrics::{Direction, Metrics, PLAINTEXT},
};

/// What these decisions are made with.
pub(crate) struct OutboundRoutes {
    pub(crate) state: Arc<State>,
    pub(crate) endpoints: Rc<Endpoints>,
    pub(crate) balancers: Balancers,
    pub(crate) metrics: Arc<Metrics>,
}

impl OutboundRoutes {
    /// Where a connection to an address goes; nothing if the mesh knows nothing of that.
    ///
    /// # Errors
    /// When it cannot be known, or there is no such Service or port.
    pub(crate) async fn route(&self, to: SocketAddr) -> Result<Option<ConnectionRoute>, Failure> {
        let target = match self.state.peek(to.ip()) {
            Some(target) => target,
            None => Box::pin(self.state.resolve(to.ip()))
                .await
                .map_err(|e| Failure::new(Reason::ControlPlaneUnavailable, e.to_string()))?,
        };
        self.decide(target, to)
    }

    fn decide(&self, target: Target, to: SocketAddr) -> Result<Option<ConnectionRoute>, Failure> {
        let (port, direction) = (to.port(), Direction::Outbound);
        let (route, declared, service): (_, _, Rc<str>) = match target {
            Target::Outside => return Ok(None),
            Target::Workload(workload) => {
                let declared = protocol(&workload.ports, port);
                let (route, service) = self.to_pod(workload, to);
                (route, declared, service)
            }
            Target::Service(key, source) => {
                let service = key.to_string();
                let balancer = self.balancers.get(key, port, source);
                let declared = balancer.protocol()?;
                (Route::Balanced(balancer), declared, service.into())
            }
        };
        Ok(Some(ConnectionRoute { port, declared, route, direction, service }))
    }

    /// To exactly the pod that was addressed, and what it is counted as: pods come and go for as long as this process lives, and a series
    /// never goes, so they are counted together as what made them.
    pub(crate) fn to_pod(&self, workload: Arc<Workload>, to: SocketAddr) -> (Route, Rc<str>) {
        let service: Rc<str> = format!("{}/{}", workload.namespace, workload.owner).into();
        // Ports of its proxy are not the application's.
        let identity = workload.identity.clone().filter(|_| !ports::ALL.contains(&to.port()));
        let peer = identity.as_ref().map_or(PLAINTEXT, |id| id.as_str());
        let series = self.metrics.http(Direction::Outbound, &service, peer);
        let endpoint = self.endpoints.get_direct(EndpointKey { address: to, identity });
        (Route::Pod(Pod::new(Candidate { endpoint, series }, to.ip(), workload, Arc::clone(&self.state))), service)
    }
}
