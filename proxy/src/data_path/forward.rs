//! An accepted connection whose route is known comes in: detect → HTTP or tunnel; its requests or bytes go out.
//!
//! No server that speaks first is kept waiting: a declared protocol and the well-known ports decide at once; otherwise the endpoint is
//! connected to early for a client that is silent for [`first_bytes::DETECTION_TIMEOUT`], and whichever side speaks first decides. If that
//! is a client of HTTP after all, the early connection is given up and its requests go the way of requests. One that has begun with what
//! may become HTTP, and says no more for [`first_bytes::UNDECIDED_TIMEOUT`], is opaque.

use std::{net::SocketAddr, rc::Rc, sync::Arc, sync::atomic::Ordering::Relaxed};

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::{
    contract::{reason::Reason, resource::Protocol, tunnel::App},
    data_path::{
        buffer::{coalesce::Coalesced, prefixed::Prefixed, trim::Trimming},
        connect::{endpoint::Candidate, socket::reset_on_close},
        drain::{Drain, Phase},
        failure::Failure,
        http::{
            connection::ConnectionContext,
            server::{http1, http2},
        },
        limits::{connections::ConnectionPermit, messages::HEAD_DEADLINE},
        observe::reporter::Reporter,
        route::connection::ConnectionRoute,
        tunnel::upstream::TunnelUpstream,
    },
    telemetry::metrics::{Direction, PLAINTEXT},
};

use detect::{DetectedProtocol, detect, is_opaque_port};
use first_bytes::{read_in_time, read_once_begun, read_unless_silent};

mod detect;
mod first_bytes;
mod outside;
mod refuse;

/// A connection of a client, and where it goes.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) to: ConnectionRoute,
    pub(crate) permit: ConnectionPermit,
}

/// What connections are forwarded with.
pub(crate) struct Forwarder {
    pub(crate) reporter: Rc<Reporter>,
    pub(crate) drain: Arc<Drain>,
    pub(crate) trimming: Rc<Trimming>,
}

impl Forwarder {
    /// Forwards a connection to its end.
    pub(crate) async fn forward(&self, mut connection: Connection) {
        let mut first = BytesMut::new();
        let protocol = match connection.to.declared {
            Protocol::Tcp => DetectedProtocol::Opaque,
            Protocol::Detect if is_opaque_port(connection.to.port) => DetectedProtocol::Opaque,
            Protocol::Detect => match read_unless_silent(&mut connection.stream, &mut first).await {
                Some(protocol) => protocol,
                None => return Box::pin(self.connect_early(connection, first)).await,
            },
            // The client speaks first; a connection kept ready may be silent for long.
            Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => {
                let mut drain = self.drain.watch();
                let protocol = tokio::select! {
                    protocol = read_in_time(&mut connection.stream, &mut first) => protocol,
                    () = drain.reached(Phase::Draining) => return,
                };
                match protocol {
                    Some(protocol) => protocol,
                    None => {
                        let detail = format!("its first line took longer than {} s", HEAD_DEADLINE.as_secs());
                        let failure = Failure::new(Reason::BadRequest, detail);
                        let direction = connection.to.direction;
                        return Box::pin(self.refuse(direction, connection.stream, first, failure)).await;
                    }
                }
            }
        };
        self.forward_as(protocol, connection, first).await;
    }

    async fn forward_as(&self, protocol: DetectedProtocol, connection: Connection, first: BytesMut) {
        let app = match protocol {
            DetectedProtocol::Http1 => App::Http1,
            DetectedProtocol::Http2 => App::Http2,
            // Larger than what HTTP needs: kept out of its connections' futures.
            DetectedProtocol::Opaque => return Box::pin(self.tunnel(connection, first, None)).await,
        };
        let drain = self.drain.watch();
        let Connection { stream, to, permit } = connection;
        let context = Rc::new(ConnectionContext {
            route: to.route,
            direction: to.direction,
            app,
            service: to.service,
            tunnels: None,
            reporter: Rc::clone(&self.reporter),
            drain: Arc::clone(&self.drain),
            _permit: permit,
        });
        let io = Prefixed::new(first.freeze(), stream);
        match protocol {
            DetectedProtocol::Http1 => http1::serve(context, io, drain, Rc::clone(&self.trimming)).await,
            _ => Box::pin(http2::serve(context, Coalesced::new(io), drain, None)).await,
        }
    }

    /// Connects to an endpoint before the client has said what it speaks.
    async fn connect_early(&self, mut connection: Connection, mut first: BytesMut) {
        let (mut upstream, candidate) = match TunnelUpstream::open(&connection.to.route).await {
            Ok(opened) => opened,
            Err(failure) => return self.refuse(connection.to.direction, connection.stream, first, failure).await,
        };
        // What came of the first bytes while connecting is judged first.
        let mut protocol = detect(&first);
        if protocol.is_none() {
            protocol = tokio::select! {
                biased;
                protocol = read_once_begun(&mut connection.stream, &mut first) => Some(protocol),
                () = upstream.speaks() => None,
            };
        }
        match protocol {
            None | Some(DetectedProtocol::Opaque) => self.tunnel(connection, first, Some((upstream, candidate))).await,
            Some(protocol) => {
                drop(upstream);
                self.forward_as(protocol, connection, first).await;
            }
        }
    }

    /// Opaque bytes to an endpoint of the route.
    async fn tunnel(&self, connection: Connection, first: BytesMut, open: Option<(TunnelUpstream, Rc<Candidate>)>) {
        let Connection { stream, to, permit: _permit } = connection;
        let (direction, metrics) = (to.direction, &self.reporter.metrics);
        let opened = match open {
            Some(open) => Ok(open),
            None => TunnelUpstream::open(&to.route).await,
        };
        match opened {
            Ok((upstream, candidate)) => {
                let identity = candidate.endpoint.key.identity.as_ref();
                let peer = identity.map_or(PLAINTEXT, |id| id.as_str());
                let count = metrics.tcp(direction, &to.service, peer, identity.is_some());
                count.fetch_add(1, Relaxed);
                let _open = metrics.open(direction);
                candidate.endpoint.load.request_started();
                upstream.forward(stream, &first, metrics, direction, self.drain.watch()).await;
                candidate.endpoint.load.request_ended();
            }
            Err(failure) => {
                self.reporter.refused(direction, &failure);
                reset_on_close(&stream);
            }
        }
    }

    /// Bytes to an address that the mesh knows nothing of, unchanged and unseen.
    pub(crate) fn pass_through(&self, stream: TcpStream, to: SocketAddr) -> impl Future<Output = ()> {
        outside::pass_through(&self.reporter, self.drain.watch(), stream, to)
    }

    /// Refuses a connection: HTTP with a status and why, anything else with a reset.
    pub(crate) fn refuse(
        &self,
        direction: Direction,
        stream: TcpStream,
        first: BytesMut,
        failure: Failure,
    ) -> impl Future<Output = ()> {
        refuse::refuse(&self.reporter, self.drain.watch(), direction, stream, first, failure)
    }
}

#[cfg(test)]
mod tests;
