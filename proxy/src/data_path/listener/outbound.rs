//! Connections that the application opens: accept → resolve → route → balance → connect.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::{
    contract::{
        bootstrap::{Reason, ports},
        resource::{Protocol, Workload},
    },
    control::state::Target,
    data_path::{
        connect::endpoint::{Candidate, EndpointKey},
        forward::{self, Carried},
        http::local_reply::Failure,
        limits::connections::Seat,
        worker::Worker,
    },
    telemetry::metrics::{Direction, PLAINTEXT},
};

use crate::data_path::balance::balancer::{Pod, Route};

/// Carries a connection to where the application wanted it.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, to: SocketAddr, seat: Seat) {
    let direction = Direction::Outbound;
    let target = match worker.state.peek(to.ip()) {
        Some(target) => target,
        None => match Box::pin(worker.state.resolve(to.ip())).await {
            Ok(target) => target,
            Err(e) => {
                let failure = Failure::new(Reason::ControlPlaneUnavailable, e.to_string());
                return Box::pin(forward::refuse(&worker, direction, stream, BytesMut::new(), failure)).await;
            }
        },
    };
    let (route, declared, service): (_, _, Rc<str>) = match target {
        Target::Outside => return Box::pin(forward::pass(worker, stream, to)).await,
        Target::Workload(workload) => {
            let declared = protocol(&workload.ports, to.port());
            let (route, service) = direct(&worker, workload, to);
            (route, declared, service)
        }
        Target::Service(key, source) => {
            let service = key.to_string();
            let balancer = worker.balancer(key, to.port(), source);
            match balancer.protocol(&worker) {
                Ok(declared) => (Route::Balanced(balancer), declared, service.into()),
                Err(failure) => {
                    return Box::pin(forward::refuse(&worker, direction, stream, BytesMut::new(), failure)).await;
                }
            }
        }
    };
    let carried = Carried { stream, port: to.port(), declared, route, direction, service, seat };
    forward::carry(worker, carried).await;
}

/// To exactly the pod that was addressed, and what it is counted as: pods come and go for as long as this process lives, and a series
/// never goes, so they are counted together as what made them.
fn direct(worker: &Worker, workload: Arc<Workload>, to: SocketAddr) -> (Route, Rc<str>) {
    let service: Rc<str> = format!("{}/{}", workload.namespace, workload.owner).into();
    // Ports of its proxy are not the application's.
    let identity = workload.identity.clone().filter(|_| !ports::ALL.contains(&to.port()));
    let peer = identity.as_ref().map_or(PLAINTEXT, |id| id.as_str());
    let series = worker.metrics.http(Direction::Outbound, &service, peer);
    let endpoint = worker.direct(EndpointKey { address: to, identity });
    (Route::Pod(Pod::new(Candidate { endpoint, series }, to.ip(), workload)), service)
}

/// What is declared for a port.
pub(crate) fn protocol(declared: &[(u16, Protocol)], port: u16) -> Protocol {
    declared.binary_search_by_key(&port, |(p, _)| *p).map_or(Protocol::Detect, |i| declared[i].1)
}

#[cfg(test)]
mod tests;
