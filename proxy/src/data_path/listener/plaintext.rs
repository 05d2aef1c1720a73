//! Connections without mutual TLS that were redirected on their way to a port of the application: authorize → forward.

use std::{net::SocketAddr, rc::Rc};

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::{
    data_path::{
        connect::socket::reset_on_close,
        forward::{Connection, Forwarder},
        limits::connections::ConnectionPermit,
        route::{inbound::InboundRoutes, permission},
    },
    telemetry::metrics::Direction,
};

const DIRECTION: Direction = Direction::Inbound;

/// What these connections are served with.
pub(crate) struct PlaintextListener {
    pub(crate) routes: Rc<InboundRoutes>,
    pub(crate) forwarder: Rc<Forwarder>,
}

impl PlaintextListener {
    /// Serves a connection to its end, if the policy lets it.
    pub(crate) async fn serve(self: Rc<Self>, stream: TcpStream, to: SocketAddr, permit: ConnectionPermit) {
        let policy = self.routes.policy();
        let from = || stream.peer_addr().map_or_else(|_| "a client".to_owned(), |a| a.to_string());
        if let Err(failure) = permission::plaintext_connection(policy.strict, to.port(), from) {
            return Box::pin(self.forwarder.refuse(DIRECTION, stream, BytesMut::new(), failure)).await;
        }
        let to = match self.routes.route_plaintext(&policy, to) {
            Ok(to) => to,
            Err(failure) => {
                self.forwarder.reporter.refused(DIRECTION, &failure);
                return reset_on_close(&stream);
            }
        };
        drop(policy);
        self.forwarder.forward(Connection { stream, to, permit }).await;
    }
}
