//! What the proxy knows of the mesh, filled by the control stream and read by the data plane.
//!
//! Readers take an [`Arc`] once per connection or per change, never per request. A destination that nobody asked for yet is
//! subscribed on first use; without a control plane, what was ever known stays valid.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::contract::resource::{Address, InboundPolicy, Service, ServiceKey, Workload};

mod evict;
mod tables;

use tables::{AddressEntry, Known, Look, ServiceEntry, Tables};

/// Most addresses that are held at once; the longest unused make room.
pub const MAX_ADDRESSES: usize = 8192;
/// How long a first use of a destination waits for the control plane.
pub const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a first use waits for a control stream that is down: time enough to reach another replica.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(1);

/// What is known of a destination address.
#[derive(Debug, Clone)]
pub enum Target {
    /// Nothing: it is outside the cluster, a node, the API server …; traffic goes there unchanged.
    Outside,
    /// A pod, addressed directly.
    Workload(Arc<Workload>),
    /// A Service; changes of its endpoints arrive in the watch. `None` while (or after) the Service does not exist. The
    /// sender is gone once the Service was forgotten (nobody used it for long): the last value stays valid, resolve again.
    Service(ServiceKey, watch::Receiver<Option<Arc<Service>>>),
}

/// The control plane could not be asked about a destination that was never asked for before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "nothing is known of {0} and the control plane did not answer: check that bowline-control is running and reachable from this pod"
)]
pub struct Unavailable(pub IpAddr);

/// Names something that the control stream subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// An address.
    Address(IpAddr),
    /// A Service, wanted because an address names it.
    Service(ServiceKey),
}

/// What to subscribe and unsubscribe since it was last asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Newly wanted. A Service is in it only if it did not come with the address that names it.
    pub add: Vec<Key>,
    /// No longer wanted, to be said first: what is in both was dropped and is wanted again, from the beginning.
    pub remove: Vec<Key>,
}

/// Everything the data plane reads.
#[derive(Debug)]
pub struct State {
    inbound: ArcSwapOption<InboundPolicy>,
    /// Wakes those who wait for another inbound policy.
    inbound_changed: Notify,
    /// What holds until the control plane has spoken: nobody without mutual TLS.
    strict: Arc<InboundPolicy>,
    tables: Mutex<Tables>,
    /// Wakes the stream when something is to be (un)subscribed.
    wanted: watch::Sender<u64>,
    /// Whether the control stream is up.
    connected: watch::Sender<bool>,
    /// Whether everything that was not set is outside: there is no control plane to ask.
    fixed: bool,
    evicted: AtomicU64,
    max_addresses: usize,
}

impl State {
    /// Empty: inbound is strict, no destination is known, the stream is down.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::with(false, MAX_ADDRESSES))
    }

    /// For a proxy without a control plane: every address that was not set is [`Target::Outside`].
    #[must_use]
    pub fn fixed() -> Arc<Self> {
        Arc::new(Self::with(true, MAX_ADDRESSES))
    }

    fn with(fixed: bool, max_addresses: usize) -> Self {
        Self {
            inbound: ArcSwapOption::empty(),
            inbound_changed: Notify::new(),
            strict: Arc::new(InboundPolicy { strict: true, ports: Vec::new() }),
            tables: Mutex::default(),
            wanted: watch::Sender::new(0),
            connected: watch::Sender::new(false),
            fixed,
            evicted: AtomicU64::new(0),
            max_addresses,
        }
    }

    /// What this pod demands of its callers; strict until known.
    #[must_use]
    pub fn inbound_policy(&self) -> Arc<InboundPolicy> {
        self.inbound.load_full().unwrap_or_else(|| Arc::clone(&self.strict))
    }

    /// Whether nobody is let in without mutual TLS.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.inbound.load().as_ref().is_none_or(|policy| policy.strict)
    }

    /// Waits until nobody is let in without mutual TLS.
    pub async fn strict(&self) {
        loop {
            // Made before the look, so no change can slip in between.
            let changed = self.inbound_changed.notified();
            if self.is_strict() {
                return;
            }
            changed.await;
        }
    }

    /// Whether the control plane told the inbound policy.
    #[must_use]
    pub fn inbound_known(&self) -> bool {
        self.inbound.load().is_some()
    }

    /// What is known of an address, without asking anybody; `None`: use [`State::resolve`].
    #[must_use]
    pub fn peek(&self, ip: IpAddr) -> Option<Target> {
        let ip = ip.to_canonical();
        if is_local(ip) {
            return Some(Target::Outside);
        }
        match self.tables().look(ip)? {
            Look::Known(target) => Some(target),
            Look::Wait(_) => None,
        }
    }

    /// What is known of an address; subscribes to it on first use and waits for the answer.
    ///
    /// # Errors
    /// [`Unavailable`] when nothing is known of it and no answer came within [`RESOLVE_DEADLINE`], or within
    /// [`RECONNECT_GRACE`] while the stream is down.
    pub async fn resolve(&self, ip: IpAddr) -> Result<Target, Unavailable> {
        let ip = ip.to_canonical();
        if is_local(ip) {
            return Ok(Target::Outside);
        }
        let deadline = Instant::now() + RESOLVE_DEADLINE;
        loop {
            let changed = {
                let mut tables = self.tables();
                match tables.look(ip) {
                    Some(Look::Known(target)) => return Ok(target),
                    None if self.fixed => return Ok(Target::Outside),
                    Some(Look::Wait(changed)) => changed.notified_owned(),
                    None => {
                        let changed = self.ask(&mut tables, ip);
                        // Made while the lock is held, so no change can slip in between.
                        let changed = changed.notified_owned();
                        drop(tables);
                        self.wake_stream();
                        changed
                    }
                }
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(deadline) => return Err(Unavailable(ip)),
                () = self.lost() => return Err(Unavailable(ip)),
            }
        }
    }

    /// Waits until the stream has been down for [`RECONNECT_GRACE`].
    async fn lost(&self) {
        let mut connected = self.connected.subscribe();
        loop {
            // The sender lives as long as self, so neither wait can fail.
            let _ = connected.wait_for(|up| !up).await.is_ok();
            if tokio::time::timeout(RECONNECT_GRACE, connected.wait_for(|up| *up)).await.is_err() {
                return;
            }
        }
    }

    fn ask(&self, tables: &mut Tables, ip: IpAddr) -> Arc<Notify> {
        if tables.addresses.len() >= self.max_addresses {
            let gone = tables.evict(self.max_addresses / 8 + 1);
            self.evicted.fetch_add(gone as u64, Ordering::Relaxed);
        }
        tables.added.insert(Key::Address(ip));
        let used = tables.tick();
        let changed = Arc::new(Notify::new());
        tables.addresses.insert(ip, AddressEntry { known: Known::Asked, used, changed: Arc::clone(&changed) });
        changed
    }

    /// Records what stands behind an address; `None`: nothing known, traffic goes there unchanged.
    pub fn set_address(&self, ip: IpAddr, address: Option<Arc<Address>>) {
        let ip = ip.to_canonical();
        let known = match address.as_deref() {
            None => Known::Outside,
            Some(Address::Workload(w)) => Known::Workload(Arc::new(w.clone())),
            Some(Address::Service(key)) => Known::Service(key.clone()),
        };
        let mut tables = self.tables();
        if !tables.addresses.contains_key(&ip) {
            self.ask(&mut tables, ip);
        }
        tables.set_address(ip, known);
        drop(tables);
        self.wake_stream();
    }

    /// Waits until something else than this pod stands behind an address. That the address is forgotten is no such news.
    pub async fn replaced(&self, ip: IpAddr, known: &Workload) {
        let ip = ip.to_canonical();
        let is_it =
            |w: &Workload| (&w.namespace, &w.pod, &w.identity) == (&known.namespace, &known.pod, &known.identity);
        loop {
            let changed = {
                let tables = self.tables();
                match tables.addresses.get(&ip).map(|entry| (&entry.known, &entry.changed)) {
                    Some((Known::Workload(w), changed)) if is_it(w) => Some(Arc::clone(changed).notified_owned()),
                    Some((Known::Asked, changed)) => Some(Arc::clone(changed).notified_owned()),
                    None => None,
                    Some(_) => return,
                }
            };
            match changed {
                Some(changed) => changed.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Records a Service; `None`: it does not exist.
    pub fn set_service(&self, key: ServiceKey, service: Option<Arc<Service>>) {
        let mut tables = self.tables();
        let name = Key::Service(key.clone());
        // Once dropped it has to be asked for again, although this one came: the control plane is about to forget it.
        if !tables.removed.contains(&name) {
            tables.added.remove(&name);
        }
        let entry = tables.services.entry(key).or_insert_with(ServiceEntry::new);
        entry.answered = true;
        entry.value.send_replace(service);
        entry.changed.notify_waiters();
    }

    /// Records what this pod demands of its callers.
    pub fn set_inbound_policy(&self, policy: Arc<InboundPolicy>) {
        self.inbound.store(Some(policy));
        self.inbound_changed.notify_waiters();
    }

    /// Records whether the control stream is up.
    pub fn set_connected(&self, up: bool) {
        self.connected.send_replace(up);
    }

    /// Whether the control stream is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Ticks whenever [`State::take_changes`] has something new.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }

    /// What became wanted and unwanted since the last call.
    #[must_use]
    pub fn take_changes(&self) -> Changes {
        let mut tables = self.tables();
        let add = tables.added.drain().collect();
        Changes { add, remove: tables.removed.drain().collect() }
    }

    /// Everything that is wanted, for a new stream; forgets pending changes, which are in it.
    #[must_use]
    pub fn wanted(&self) -> Vec<Key> {
        let mut tables = self.tables();
        tables.added.clear();
        tables.removed.clear();
        let addresses = tables.addresses.keys().copied().map(Key::Address);
        addresses.chain(tables.services.keys().cloned().map(Key::Service)).collect()
    }

    /// Whether a resource is still wanted: one that was unsubscribed may be on its way.
    #[must_use]
    pub fn wants(&self, key: &Key) -> bool {
        let tables = self.tables();
        match key {
            Key::Address(ip) => tables.addresses.contains_key(ip),
            Key::Service(key) => tables.services.contains_key(key),
        }
    }

    /// Number of addresses that had to make room for others since the start.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Every answered address with its target, in order; for people to read.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(IpAddr, Target)> {
        let mut tables = self.tables();
        let mut ips: Vec<_> = tables.addresses.keys().copied().collect();
        ips.sort_unstable();
        ips.into_iter()
            .filter_map(|ip| match tables.target(ip)? {
                Look::Known(target) => Some((ip, target)),
                Look::Wait(_) => None,
            })
            .collect()
    }

    fn wake_stream(&self) {
        self.wanted.send_modify(|n| *n += 1);
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Nothing panics while the lock is held; should it, the tables are still whole.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Addresses that never leave the pod or its link: nobody needs to be asked.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || match ip {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
}

#[cfg(test)]
mod tests;
