//! Connections that the application opens: decide → forward.

use std::{net::SocketAddr, rc::Rc};

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::{
    data_path::{
        forward::{Connection, Forwarder},
        limits::connections::ConnectionPermit,
        route::outbound::OutboundRoutes,
    },
    telemetry::metrics::Direction,
};

/// What these connections are served with.
pub(crate) struct OutboundListener {
    pub(crate) routes: OutboundRoutes,
    pub(crate) forwarder: Rc<Forwarder>,
}

impl OutboundListener {
    /// Serves a connection to its end, which goes to where the application wanted it.
    pub(crate) async fn serve(self: Rc<Self>, stream: TcpStream, to: SocketAddr, permit: ConnectionPermit) {
        match self.routes.route(to).await {
            Ok(Some(to)) => self.forwarder.forward(Connection { stream, to, permit }).await,
            Ok(None) => Box::pin(self.forwarder.pass_through(stream, to)).await,
            Err(failure) => {
                Box::pin(self.forwarder.refuse(Direction::Outbound, stream, BytesMut::new(), failure)).await;
            }
        }
    }
}
