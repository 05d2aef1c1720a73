//! Accepts connections.

use std::{net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};

use crate::{
    contract::reason::Reason,
    data_path::{
        connect::socket::reset_on_close,
        drain::{Drain, Phase},
        failure::Failure,
        limits::connections::{ConnectionLimit, ConnectionPermit, ListenerKind, ListenerPermit},
        observe::reporter::Reporter,
    },
};

/// How long nothing is accepted after it failed.
const PAUSE: Duration = Duration::from_millis(20);

/// One of a worker's listeners.
pub(crate) struct Acceptor {
    pub(crate) kind: ListenerKind,
    pub(crate) limit: &'static ConnectionLimit,
    pub(crate) drain: Arc<Drain>,
    pub(crate) reporter: Rc<Reporter>,
}

impl Acceptor {
    /// Accepts until the proxy drains, and has each connection served; then what the kernel has accepted already is served too.
    pub(crate) async fn run(self, listener: TcpListener, serve: impl Fn(TcpStream, ConnectionPermit)) {
        let mut drain = self.drain.watch();
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                () = drain.reached(Phase::Draining) => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if let Some(permit) = self.admit(&stream, peer.ip()) {
                        serve(stream, permit);
                    }
                }
                // It ended before it was accepted.
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    let detail = format!("a connection could not be accepted: {e}");
                    self.reporter.refused(self.kind.direction(), &Failure::new(Reason::Overloaded, detail));
                    // Out of descriptors or memory: a moment later there may be some.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: &TcpStream, peer: IpAddr) -> Option<ConnectionPermit> {
        let permit = match self.kind {
            ListenerKind::Mesh => self.limit.try_acquire_peer(peer).map(ListenerPermit::Peer),
            ListenerKind::Outbound | ListenerKind::Plain => self.limit.try_acquire(self.kind).map(ListenerPermit::Own),
        };
        if permit.is_none() {
            let most = self.limit.max();
            let detail =
                format!("too many connections are open: of {most} in all no place is left for this way, or for {peer}");
            self.reporter.refused(self.kind.direction(), &Failure::new(Reason::Overloaded, detail));
            reset_on_close(stream);
        }
        Some(ConnectionPermit::new(permit?, self.drain.open()))
    }
}
