//! Who may have a connection open: every door has places of its own, so that whoever fills one leaves the others theirs; and the
//! strangers who have not proved themselves yet have few.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    rc::Rc,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;

use crate::data_path::{drain::Open, listener::accept::Door};

/// Each door's own share of all places is one of so many; the rest is anybody's.
const SHARES: usize = 8;
/// Handshakes under way with one worker; the oldest goes when there is one more.
const MAX_HANDSHAKES: usize = 256;
/// Descriptors that are not connections' (control, probes, metrics, the program's own).
const OTHER_DESCRIPTORS: u64 = 192;
/// Descriptors that a connection takes: its own and that of the far end.
const PER_CONNECTION: u64 = 2;
/// More are never asked for.
const MAX_DESCRIPTORS: u64 = 1 << 20;

/// Places of all workers together.
pub(crate) struct Places {
    own: [AtomicUsize; 3],
    common: AtomicUsize,
    each: usize,
    rest: usize,
    /// What each address has of the door for other proxies. No longer than there are places.
    peers: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's.
pub(crate) struct Place(&'static AtomicUsize);

/// One that counts for the address that it came from.
pub(crate) struct PeerPlace {
    _place: Place,
    places: &'static Places,
    peer: IpAddr,
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        self.places.give_back(self.peer);
    }
}

/// What a connection counts as until it is over: it takes a place, and a drain waits for it. Whatever carries it on when it is one of
/// HTTP no more shares this.
#[derive(Clone)]
pub(crate) struct Seat {
    _of: Option<Rc<(Taken, Open)>>,
}

/// A place, however it is counted.
pub(crate) enum Taken {
    Door(#[expect(dead_code, reason = "it is there to be dropped")] Place),
    Peer(#[expect(dead_code, reason = "it is there to be dropped")] PeerPlace),
}

impl Seat {
    pub(crate) fn new(taken: Taken, open: Open) -> Self {
        Self { _of: Some(Rc::new((taken, open))) }
    }

    #[cfg(test)]
    pub(crate) fn nothing() -> Self {
        Self { _of: None }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Places {
    pub(crate) fn new(all: usize) -> Self {
        let each = all / SHARES;
        Self {
            own: Default::default(),
            common: AtomicUsize::new(0),
            each,
            rest: all - 3 * each,
            peers: Mutex::default(),
        }
    }

    /// A place at the door for other proxies. One address gets half of them at most: nobody closes it to all others alone.
    pub(crate) fn take_mesh(&'static self, peer: IpAddr) -> Option<PeerPlace> {
        let peer = peer.to_canonical();
        let most = ((self.each + self.rest) / 2).max(1);
        {
            let mut peers = self.peers();
            let taken = peers.entry(peer).or_default();
            if *taken >= most {
                return None;
            }
            *taken += 1;
        }
        let place = self.take(Door::Mesh);
        if place.is_none() {
            self.give_back(peer);
        }
        Some(PeerPlace { _place: place?, places: self, peer })
    }

    fn give_back(&self, peer: IpAddr) {
        let mut peers = self.peers();
        if let Some(taken) = peers.get_mut(&peer) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                peers.remove(&peer);
            }
        }
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing panics while the lock is held; should it, the counts are still whole.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if there is one.
    pub(crate) fn take(&'static self, door: Door) -> Option<Place> {
        let own = &self.own[door as usize];
        take(own, self.each).or_else(|| take(&self.common, self.rest))
    }
}

fn take(of: &'static AtomicUsize, most: usize) -> Option<Place> {
    let place = Place(of);
    // Given back at once if it was one too many.
    (of.fetch_add(1, Relaxed) < most).then_some(place)
}

/// Handshakes under way, oldest first.
#[derive(Default)]
pub(crate) struct Handshakes {
    next: Cell<u64>,
    under_way: RefCell<BTreeMap<u64, Rc<Notify>>>,
}

/// Takes a handshake out of the list when it is over.
struct UnderWay<'a>(&'a Handshakes, u64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.borrow_mut().remove(&self.1);
    }
}

impl Handshakes {
    /// Carries one out; nothing if it had to make room for others.
    pub(crate) async fn run<F: Future>(&self, handshake: F) -> Option<F::Output> {
        let (number, go) = (self.next.get(), Rc::<Notify>::default());
        self.next.set(number + 1);
        {
            let mut under_way = self.under_way.borrow_mut();
            if under_way.len() >= MAX_HANDSHAKES
                && let Some((_, oldest)) = under_way.pop_first()
            {
                oldest.notify_one();
            }
            under_way.insert(number, Rc::clone(&go));
        }
        let _under_way = UnderWay(self, number);
        tokio::select! {
            biased;
            done = handshake => Some(done),
            () = go.notified() => None,
        }
    }
}

/// Lets this process open as many files as it may: container runtimes leave the soft limit at 1,024.
pub(crate) fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    if limit.current.is_some_and(|current| current < most)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Connections for which there are descriptors.
pub(crate) fn affordable() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(MAX_DESCRIPTORS);
    let connections = descriptors.saturating_sub(OTHER_DESCRIPTORS).max(PER_CONNECTION) / PER_CONNECTION;
    usize::try_from(connections).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_door_can_take_the_places_of_another() {
        let places: &'static Places = Box::leak(Box::new(Places::new(16)));
        let mut held: Vec<Place> = std::iter::from_fn(|| places.take(Door::Mesh)).collect();
        assert_eq!(held.len(), 12);
        let plain: Vec<Place> = std::iter::from_fn(|| places.take(Door::Plain)).collect();
        assert_eq!(plain.len(), 2);
        assert!(places.take(Door::Outbound).is_some());
        held.truncate(1);
        let outbound: Vec<Place> = std::iter::from_fn(|| places.take(Door::Outbound)).collect();
        assert_eq!(outbound.len(), 12);
    }

    #[test]
    fn no_address_closes_the_door_for_other_proxies_alone() {
        let places: &'static Places = Box::leak(Box::new(Places::new(16)));
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<_> = std::iter::from_fn(|| places.take_mesh(one)).collect();
        assert_eq!(held.len(), 6);
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert!(places.take_mesh(mapped).is_none(), "in either form");
        let other: Vec<_> = std::iter::from_fn(|| places.take_mesh(two)).collect();
        assert_eq!(other.len(), 6);
        held.pop();
        assert!(places.take_mesh(one).is_some());
        drop((held, other));
        assert!(places.peers().is_empty(), "who has none is forgotten");
        let all: Vec<_> = std::iter::from_fn(|| places.take(Door::Mesh)).collect();
        assert!(all.len() == 12 && places.take_mesh(one).is_none() && places.peers().is_empty());
    }

    #[tokio::test]
    async fn the_oldest_handshake_makes_room() {
        let handshakes = Handshakes::default();
        let silent = || handshakes.run(std::future::pending::<()>());
        let mut first = std::pin::pin!(silent());
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        let mut others: Vec<_> = (1..MAX_HANDSHAKES).map(|_| Box::pin(silent())).collect();
        for other in &mut others {
            assert!(futures_util::poll!(other).is_pending());
        }
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert_eq!(handshakes.run(async { 7 }).await, Some(7));
        assert_eq!(first.await, None);
        assert_eq!(handshakes.under_way.borrow().len(), MAX_HANDSHAKES - 1);
    }
}
