//! Where a connection was to go before it was redirected.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Where the connections of a listener are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Where they were going before they were redirected (SO_ORIGINAL_DST).
    Redirected,
    /// Always here: nothing redirects.
    Fixed(SocketAddr),
}

/// Where a redirected connection was to go; nothing if nobody redirected it here.
pub(crate) fn destination(configured: Destination, stream: &TcpStream) -> Option<SocketAddr> {
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
    use super::*;

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
}
