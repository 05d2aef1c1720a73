//! The tables behind the lock: addresses, the Services that they name, and what the stream is to hear of.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use tokio::sync::{Notify, watch};

use super::{Key, Target};
use crate::contract::resource::{Service, ServiceKey, Workload};

#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) addresses: HashMap<IpAddr, AddressEntry>,
    pub(super) services: HashMap<ServiceKey, ServiceEntry>,
    /// Ticks with every use: the order of last uses.
    pub(super) clock: u64,
    pub(super) added: HashSet<Key>,
    pub(super) removed: HashSet<Key>,
}

#[derive(Debug)]
pub(super) struct AddressEntry {
    pub(super) known: Known,
    pub(super) used: u64,
    pub(super) changed: Arc<Notify>,
}

#[derive(Debug, Clone)]
pub(super) enum Known {
    Asked,
    Outside,
    Workload(Arc<Workload>),
    Service(ServiceKey),
}

#[derive(Debug)]
pub(super) struct ServiceEntry {
    /// Whether the control plane said anything of it yet.
    pub(super) answered: bool,
    pub(super) value: watch::Sender<Option<Arc<Service>>>,
    pub(super) changed: Arc<Notify>,
    /// Number of addresses that name it.
    pub(super) named: usize,
}

/// What a look into the tables yields.
pub(super) enum Look {
    Known(Target),
    Wait(Arc<Notify>),
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
    pub(super) fn look(&mut self, ip: IpAddr) -> Option<Look> {
        let now = self.tick();
        self.addresses.get_mut(&ip)?.used = now;
        self.target(ip)
    }

    pub(super) fn target(&mut self, ip: IpAddr) -> Option<Look> {
        let entry = self.addresses.get(&ip)?;
        Some(match &entry.known {
            Known::Asked => Look::Wait(Arc::clone(&entry.changed)),
            Known::Outside => Look::Known(Target::Outside),
            Known::Workload(w) => Look::Known(Target::Workload(Arc::clone(w))),
            Known::Service(key) => match self.services.get(key) {
                Some(s) if s.answered => Look::Known(Target::Service(key.clone(), s.value.subscribe())),
                Some(s) => Look::Wait(Arc::clone(&s.changed)),
                // Never: naming a Service makes its entry. Should it, the address counts as unanswered.
                None => Look::Wait(Arc::clone(&entry.changed)),
            },
        })
    }

    pub(super) fn set_address(&mut self, ip: IpAddr, known: Known) {
        if let Known::Service(key) = &known {
            let added = &mut self.added;
            let entry = self.services.entry(key.clone()).or_insert_with(|| {
                added.insert(Key::Service(key.clone()));
                ServiceEntry::new()
            });
            entry.named += 1;
        }
        let Some(entry) = self.addresses.get_mut(&ip) else { return };
        let before = std::mem::replace(&mut entry.known, known);
        entry.changed.notify_waiters();
        if let Known::Service(key) = before {
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
        self.added.remove(&Key::Service(key.clone()));
        self.removed.insert(Key::Service(key.clone()));
        self.services.remove(key).map(|e| e.value)
    }
}
