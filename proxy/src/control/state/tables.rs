//! The tables behind the lock: addresses, the Services that they name, and the subscriptions that the stream has yet to send.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use tokio::sync::{Notify, watch};

use crate::{
    contract::resource::{Service, ServiceKey, Workload},
    control::state::{subscription::Subscription, target::Target},
};

#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) addresses: HashMap<IpAddr, AddressEntry>,
    pub(super) services: HashMap<ServiceKey, ServiceEntry>,
    /// Ticks with every use: the order of last uses.
    pub(super) clock: u64,
    pub(super) added: HashSet<Subscription>,
    pub(super) removed: HashSet<Subscription>,
}

#[derive(Debug)]
pub(super) struct AddressEntry {
    pub(super) resolution: Resolution,
    pub(super) used: u64,
    pub(super) changed: Arc<Notify>,
}

/// What an address was found to be.
#[derive(Debug, Clone)]
pub(super) enum Resolution {
    /// The control plane was asked and has not answered yet.
    Pending,
    Outside,
    Workload(Arc<Workload>),
    Service(ServiceKey),
}

#[derive(Debug)]
pub(super) struct ServiceEntry {
    /// Whether the control plane has sent it, or that it does not exist.
    pub(super) answered: bool,
    pub(super) value: watch::Sender<Option<Arc<Service>>>,
    pub(super) changed: Arc<Notify>,
    /// Number of addresses that name it.
    pub(super) named: usize,
}

/// What a lookup yields.
pub(super) enum Lookup {
    Found(Target),
    /// Woken when there is something to be found.
    Pending(Arc<Notify>),
}

impl ServiceEntry {
    pub(super) fn new() -> Self {
        Self { answered: false, value: watch::Sender::new(None), changed: Arc::new(Notify::new()), named: 0 }
    }
}

impl Tables {
    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Looks an address up and counts that as a use.
    pub(super) fn lookup(&mut self, ip: IpAddr) -> Option<Lookup> {
        let now = self.tick();
        self.addresses.get_mut(&ip)?.used = now;
        self.target(ip)
    }

    pub(super) fn target(&mut self, ip: IpAddr) -> Option<Lookup> {
        let entry = self.addresses.get(&ip)?;
        Some(match &entry.resolution {
            Resolution::Pending => Lookup::Pending(Arc::clone(&entry.changed)),
            Resolution::Outside => Lookup::Found(Target::Outside),
            Resolution::Workload(w) => Lookup::Found(Target::Workload(Arc::clone(w))),
            Resolution::Service(key) => match self.services.get(key) {
                Some(s) if s.answered => Lookup::Found(Target::Service(key.clone(), s.value.subscribe())),
                Some(s) => Lookup::Pending(Arc::clone(&s.changed)),
                // Never: naming a Service makes its entry. Should it, the address counts as unanswered.
                None => Lookup::Pending(Arc::clone(&entry.changed)),
            },
        })
    }

    pub(super) fn set_address(&mut self, ip: IpAddr, resolution: Resolution) {
        if let Resolution::Service(key) = &resolution {
            let added = &mut self.added;
            let entry = self.services.entry(key.clone()).or_insert_with(|| {
                added.insert(Subscription::Service(key.clone()));
                ServiceEntry::new()
            });
            entry.named += 1;
        }
        let Some(entry) = self.addresses.get_mut(&ip) else { return };
        let before = std::mem::replace(&mut entry.resolution, resolution);
        entry.changed.notify_waiters();
        if let Resolution::Service(key) = before {
            // Whoever still watches it learns that the address leads elsewhere now.
            if let Some(value) = self.unname(&key) {
                value.send_replace(None);
            }
        }
    }

    /// One address less names the Service; gives its sender when that was the last and it is forgotten.
    pub(super) fn unname(&mut self, key: &ServiceKey) -> Option<watch::Sender<Option<Arc<Service>>>> {
        let entry = self.services.get_mut(key)?;
        entry.named = entry.named.saturating_sub(1);
        if entry.named > 0 {
            return None;
        }
        self.added.remove(&Subscription::Service(key.clone()));
        self.removed.insert(Subscription::Service(key.clone()));
        self.services.remove(key).map(|e| e.value)
    }
}
