//! What the proxy knows of the mesh: the table that connections read. Validated resources come in from the control stream
//! ([`update`](super::stream)), targets of addresses and the inbound policy go out to the data path.
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
mod subscription;
mod tables;
mod target;

pub use subscription::{Subscription, SubscriptionDelta};
use tables::{AddressEntry, Lookup, Resolution, ServiceEntry, Tables};
pub use target::Target;

/// Most addresses that are held at once; beyond that the least recently used are evicted.
pub const MAX_ADDRESSES: usize = 8192;
/// How long a first use of a destination waits for the control plane.
pub const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a first use waits for a control stream that is down: time enough to reach another replica.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(1);

/// The control plane could not be asked about a destination that was never asked for before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "nothing is known of {0} and the control plane did not answer: check that bowline-control is running and reachable from this pod"
)]
pub struct Unavailable(pub IpAddr);

/// Everything the data plane reads.
#[derive(Debug)]
pub struct State {
    inbound: ArcSwapOption<InboundPolicy>,
    /// Wakes those who wait for another inbound policy.
    inbound_changed: Notify,
    /// What holds until the control plane has sent a policy: nobody without mutual TLS.
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
            // Made before the check, so no change can slip in between.
            let changed = self.inbound_changed.notified();
            if self.is_strict() {
                return;
            }
            changed.await;
        }
    }

    /// Whether the control plane has sent the inbound policy.
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
        match self.tables().lookup(ip)? {
            Lookup::Found(target) => Some(target),
            Lookup::Pending(_) => None,
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
                match tables.lookup(ip) {
                    Some(Lookup::Found(target)) => return Ok(target),
                    None if self.fixed => return Ok(Target::Outside),
                    Some(Lookup::Pending(changed)) => changed.notified_owned(),
                    None => {
                        let changed = self.subscribe(&mut tables, ip);
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
                () = self.disconnected() => return Err(Unavailable(ip)),
            }
        }
    }

    /// Waits until the stream has been down for [`RECONNECT_GRACE`].
    async fn disconnected(&self) {
        let mut connected = self.connected.subscribe();
        loop {
            // The sender lives as long as self, so neither wait can fail.
            let _ = connected.wait_for(|up| !up).await.is_ok();
            if tokio::time::timeout(RECONNECT_GRACE, connected.wait_for(|up| *up)).await.is_err() {
                return;
            }
        }
    }

    fn subscribe(&self, tables: &mut Tables, ip: IpAddr) -> Arc<Notify> {
        if tables.addresses.len() >= self.max_addresses {
            let gone = tables.evict(self.max_addresses / 8 + 1);
            self.evicted.fetch_add(gone as u64, Ordering::Relaxed);
        }
        tables.added.insert(Subscription::Address(ip));
        let used = tables.tick();
        let changed = Arc::new(Notify::new());
        tables
            .addresses
            .insert(ip, AddressEntry { resolution: Resolution::Pending, used, changed: Arc::clone(&changed) });
        changed
    }

    /// Records whose an address is; `None`: nothing known, traffic goes there unchanged.
    pub fn set_address(&self, ip: IpAddr, address: Option<Arc<Address>>) {
        let ip = ip.to_canonical();
        let resolution = match address.as_deref() {
            None => Resolution::Outside,
            Some(Address::Workload(w)) => Resolution::Workload(Arc::new(w.clone())),
            Some(Address::Service(key)) => Resolution::Service(key.clone()),
        };
        let mut tables = self.tables();
        if !tables.addresses.contains_key(&ip) {
            self.subscribe(&mut tables, ip);
        }
        tables.set_address(ip, resolution);
        drop(tables);
        self.wake_stream();
    }

    /// Waits until an address belongs to something else than this pod. That the address is evicted does not count.
    pub async fn replaced(&self, ip: IpAddr, known: &Workload) {
        let ip = ip.to_canonical();
        let is_it =
            |w: &Workload| (&w.namespace, &w.pod, &w.identity) == (&known.namespace, &known.pod, &known.identity);
        loop {
            let changed = {
                let tables = self.tables();
                match tables.addresses.get(&ip).map(|entry| (&entry.resolution, &entry.changed)) {
                    Some((Resolution::Workload(w), changed)) if is_it(w) => Some(Arc::clone(changed).notified_owned()),
                    Some((Resolution::Pending, changed)) => Some(Arc::clone(changed).notified_owned()),
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
        let name = Subscription::Service(key.clone());
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

    /// Changes whenever [`State::take_subscription_delta`] has something new.
    #[must_use]
    pub fn subscription_changes(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }

    /// What became wanted and unwanted since the last call.
    #[must_use]
    pub fn take_subscription_delta(&self) -> SubscriptionDelta {
        let mut tables = self.tables();
        let add = tables.added.drain().collect();
        SubscriptionDelta { add, remove: tables.removed.drain().collect() }
    }

    /// Everything that is wanted, for a new stream; forgets pending changes, which are in it.
    #[must_use]
    pub fn wanted(&self) -> Vec<Subscription> {
        let mut tables = self.tables();
        tables.added.clear();
        tables.removed.clear();
        let addresses = tables.addresses.keys().copied().map(Subscription::Address);
        addresses.chain(tables.services.keys().cloned().map(Subscription::Service)).collect()
    }

    /// Whether a resource is still wanted: one that was unsubscribed may be on its way.
    #[must_use]
    pub fn wants(&self, key: &Subscription) -> bool {
        let tables = self.tables();
        match key {
            Subscription::Address(ip) => tables.addresses.contains_key(ip),
            Subscription::Service(key) => tables.services.contains_key(key),
        }
    }

    /// Number of addresses that were evicted in favour of others since the start.
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
                Lookup::Found(target) => Some((ip, target)),
                Lookup::Pending(_) => None,
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
