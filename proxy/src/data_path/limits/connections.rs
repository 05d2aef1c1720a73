//! How many connections may be open. Each listener has a share of its own, so that whoever exhausts one leaves the others theirs; and one
//! address does not get all of the listener for other proxies.

use std::{
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{data_path::drain::Open, telemetry::metrics::Direction};

/// The share of all connections that is reserved for each listener is one of so many; the rest is anybody's.
const SHARES: usize = 8;
/// Which of the listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    /// What the application opens.
    Outbound,
    /// What comes without mutual TLS.
    Plain,
    /// What comes from other proxies.
    Mesh,
}

impl ListenerKind {
    pub(crate) fn direction(self) -> Direction {
        match self {
            Self::Outbound => Direction::Outbound,
            Self::Plain | Self::Mesh => Direction::Inbound,
        }
    }
}

/// The limit of all workers together.
pub(crate) struct ConnectionLimit {
    reserved: [AtomicUsize; 3],
    shared: AtomicUsize,
    /// Of each listener.
    max_reserved: usize,
    max_shared: usize,
    /// Connections of each address to the listener for other proxies. No longer than the limit.
    peers: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of those that may be open.
pub(crate) struct Permit(&'static AtomicUsize);

/// One that counts for the address that it came from too.
pub(crate) struct PeerPermit {
    _permit: Permit,
    limit: &'static ConnectionLimit,
    peer: IpAddr,
}

impl Drop for PeerPermit {
    fn drop(&mut self) {
        self.limit.release_peer(self.peer);
    }
}

/// What a connection holds until it is over: it counts against the limit, and a drain waits for it. The tunnel that it becomes after an
/// upgrade shares this.
#[derive(Clone)]
pub(crate) struct ConnectionPermit {
    _held: Option<Rc<(ListenerPermit, Open)>>,
}

/// A permit of a listener.
pub(crate) enum ListenerPermit {
    Own(#[expect(dead_code, reason = "it is there to be dropped")] Permit),
    Peer(#[expect(dead_code, reason = "it is there to be dropped")] PeerPermit),
}

impl ConnectionPermit {
    pub(crate) fn new(permit: ListenerPermit, open: Open) -> Self {
        Self { _held: Some(Rc::new((permit, open))) }
    }

    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { _held: None }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl ConnectionLimit {
    pub(crate) fn new(all: usize) -> Self {
        let each = all / SHARES;
        Self {
            reserved: Default::default(),
            shared: AtomicUsize::new(0),
            max_reserved: each,
            max_shared: all - 3 * each,
            peers: Mutex::default(),
        }
    }

    /// Connections that may be open, all listeners together.
    pub(crate) fn max(&self) -> usize {
        3 * self.max_reserved + self.max_shared
    }

    /// A permit of the listener for other proxies. One address gets half of them at most: alone it does not lock all others out.
    pub(crate) fn try_acquire_peer(&'static self, peer: IpAddr) -> Option<PeerPermit> {
        let peer = peer.to_canonical();
        let most = ((self.max_reserved + self.max_shared) / 2).max(1);
        {
            let mut peers = self.peers();
            let open = peers.entry(peer).or_default();
            if *open >= most {
                return None;
            }
            *open += 1;
        }
        let permit = self.try_acquire(ListenerKind::Mesh);
        if permit.is_none() {
            self.release_peer(peer);
        }
        Some(PeerPermit { _permit: permit?, limit: self, peer })
    }

    fn release_peer(&self, peer: IpAddr) {
        let mut peers = self.peers();
        if let Some(open) = peers.get_mut(&peer) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                peers.remove(&peer);
            }
        }
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing panics while the lock is held; should it, the counts are still whole.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit, if there is one left.
    pub(crate) fn try_acquire(&'static self, listener: ListenerKind) -> Option<Permit> {
        let reserved = &self.reserved[listener as usize];
        try_acquire(reserved, self.max_reserved).or_else(|| try_acquire(&self.shared, self.max_shared))
    }
}

fn try_acquire(of: &'static AtomicUsize, most: usize) -> Option<Permit> {
    let permit = Permit(of);
    // Dropped, and so given back, at once if it was one too many.
    (of.fetch_add(1, Relaxed) < most).then_some(permit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_door_can_take_the_places_of_another() {
        let limit: &'static ConnectionLimit = Box::leak(Box::new(ConnectionLimit::new(16)));
        let mut held: Vec<Permit> = std::iter::from_fn(|| limit.try_acquire(ListenerKind::Mesh)).collect();
        assert_eq!(held.len(), 12);
        let plain: Vec<Permit> = std::iter::from_fn(|| limit.try_acquire(ListenerKind::Plain)).collect();
        assert_eq!(plain.len(), 2);
        assert!(limit.try_acquire(ListenerKind::Outbound).is_some());
        held.truncate(1);
        let outbound: Vec<Permit> = std::iter::from_fn(|| limit.try_acquire(ListenerKind::Outbound)).collect();
        assert_eq!(outbound.len(), 12);
    }

    #[test]
    fn no_address_closes_the_door_for_other_proxies_alone() {
        let limit: &'static ConnectionLimit = Box::leak(Box::new(ConnectionLimit::new(16)));
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<_> = std::iter::from_fn(|| limit.try_acquire_peer(one)).collect();
        assert_eq!(held.len(), 6);
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert!(limit.try_acquire_peer(mapped).is_none(), "in either form");
        let other: Vec<_> = std::iter::from_fn(|| limit.try_acquire_peer(two)).collect();
        assert_eq!(other.len(), 6);
        held.pop();
        assert!(limit.try_acquire_peer(one).is_some());
        drop((held, other));
        assert!(limit.peers().is_empty(), "who has none is forgotten");
        let all: Vec<_> = std::iter::from_fn(|| limit.try_acquire(ListenerKind::Mesh)).collect();
        assert!(all.len() == 12 && limit.try_acquire_peer(one).is_none() && limit.peers().is_empty());
    }
}
