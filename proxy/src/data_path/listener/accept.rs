//! Opens the data plane's ports and accepts: every worker has a listener of its own on each (SO_REUSEPORT).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    contract::bootstrap::Reason,
    data_path::{
        connect,
        drain::Phase,
        http::local_reply::Failure,
        limits::connections::{Places, Seat, Taken},
        listener::{inbound, outbound},
        start::Destination,
        tunnel,
        worker::Worker,
    },
    telemetry::metrics::Direction,
};

/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;
/// How long nothing is accepted when there is no room for it.
const PAUSE: Duration = Duration::from_millis(20);

/// Which of the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// What the application opens.
    Outbound,
    /// What comes without mutual TLS.
    Plain,
    /// What comes from other proxies.
    Mesh,
}

impl Door {
    fn direction(self) -> Direction {
        match self {
            Self::Outbound => Direction::Outbound,
            Self::Plain | Self::Mesh => Direction::Inbound,
        }
    }
}

/// Opens a port; where there is no IPv6, `::` means every IPv4 address.
pub(crate) fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    match bind(address) {
        Err(e) if address.ip() == Ipv6Addr::UNSPECIFIED && e.kind() != io::ErrorKind::AddrInUse => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        opened => opened,
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit both (Linux): no call for each of them, and peers that vanished are noticed.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&connect::dial::keepalive())?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the proxy drains; then what the kernel has accepted already is served too.
pub(crate) async fn accept(worker: Rc<Worker>, door: Door, listener: TcpListener, places: &'static Places) {
    let mut drain = worker.drain.watch();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = drain.reached(Phase::Draining) => return,
        };
        match accepted {
            Ok((stream, peer)) => admit(&worker, door, stream, peer.ip(), places),
            // It ended before it was accepted.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                let detail = format!("a connection could not be accepted: {e}");
                worker.refused(door.direction(), &Failure::new(Reason::Overloaded, detail));
                // Out of descriptors or memory: a moment later there may be some.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn admit(worker: &Rc<Worker>, door: Door, stream: TcpStream, peer: IpAddr, places: &'static Places) {
    let taken = match door {
        Door::Mesh => places.take_mesh(peer).map(Taken::Peer),
        Door::Outbound | Door::Plain => places.take(door).map(Taken::Door),
    };
    let Some(taken) = taken else {
        let most = worker.config.max_connections;
        let detail =
            format!("too many connections are open: of {most} in all no place is left for this way, or for {peer}");
        worker.refused(door.direction(), &Failure::new(Reason::Overloaded, detail));
        return tunnel::reset_on_close(&stream);
    };
    let seat = Seat::new(taken, worker.drain.open());
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        match door {
            Door::Mesh => inbound::mesh(worker, stream, seat).await,
            Door::Outbound => {
                if let Some(to) = destination(worker.config.outbound_to, &stream) {
                    outbound::serve(worker, stream, to, seat).await;
                }
            }
            Door::Plain => {
                if let Some(to) = destination(worker.config.plain_to, &stream) {
                    inbound::plain(worker, stream, to, seat).await;
                }
            }
        }
    });
}

/// Where a redirected connection was to go; nothing if nobody redirected it here.
fn destination(configured: Destination, stream: &TcpStream) -> Option<SocketAddr> {
    if let Destination::Fixed(to) = configured {
        return Some(to);
    }
    let socket = SockRef::from(stream);
    let local = stream.local_addr().ok()?;
    let original = match local.ip().to_canonical() {
        std::net::IpAddr::V4(_) => socket.original_dst_v4(),
        std::net::IpAddr::V6(_) => socket.original_dst_v6(),
    };
    onward(original.ok()?.as_socket()?, local)
}

/// Nothing where somebody connected to the proxy's port itself: carrying that on would lead back here.
fn onward(to: SocketAddr, local: SocketAddr) -> Option<SocketAddr> {
    let own = (local.ip().to_canonical(), local.port());
    ((to.ip().to_canonical(), to.port()) != own).then_some(to)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        control::state::State,
        data_path::{drain::Drain, start::Config},
        identity::store::Store,
        telemetry::metrics::Metrics,
    };

    #[test]
    fn nothing_leads_back_to_the_port_that_it_came_from() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let own = "10.0.0.7:15001";
        for (to, local, expected) in [
            ("10.96.0.10:80", own, true),
            ("10.0.0.7:80", own, true),
            ("10.0.0.8:15001", own, true),
            (own, own, false),
            // A socket that takes both families says it in either form.
            (own, "[::ffff:10.0.0.7]:15001", false),
            ("[::ffff:10.0.0.7]:15001", own, false),
            ("[fd00::7]:15001", "[fd00::7]:15001", false),
        ] {
            assert_eq!(onward(address(to), address(local)).is_some(), expected, "{to} at {local}");
        }
    }

    #[tokio::test]
    async fn what_is_kept_for_each_connection_is_small() {
        let config = Arc::new(Config::for_pod("a/b".into(), 1));
        let worker = Worker::new(config, Store::new(), State::fixed(), Metrics::new(), Drain::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let stream = || TcpStream::connect(to);
        for (what, size, most) in [
            (
                "outbound",
                size_of_val(&outbound::serve(Rc::clone(&worker), stream().await.unwrap(), to, Seat::nothing())),
                2560,
            ),
            (
                "plain inbound",
                size_of_val(&inbound::plain(Rc::clone(&worker), stream().await.unwrap(), to, Seat::nothing())),
                2560,
            ),
            (
                "mesh inbound",
                size_of_val(&inbound::mesh(Rc::clone(&worker), stream().await.unwrap(), Seat::nothing())),
                10_240,
            ),
        ] {
            assert!(size <= most, "{what}: {size} bytes, at most {most} are meant");
        }
    }
}
