//! Evicts from a full table: the least recently used addresses go, those whose Service somebody still watches last.

use std::net::IpAddr;

use super::{
    subscription::Subscription,
    tables::{Resolution, Tables},
};

impl Tables {
    /// Forgets the `count` least recently used addresses; gives how many that were.
    pub(super) fn evict(&mut self, count: usize) -> usize {
        let mut order: Vec<(bool, u64, IpAddr)> = self
            .addresses
            .iter()
            .map(|(ip, entry)| {
                let watched = match &entry.resolution {
                    Resolution::Service(key) => self.services.get(key).is_some_and(|s| s.value.receiver_count() > 0),
                    _ => false,
                };
                (watched, entry.used, *ip)
            })
            .collect();
        let count = count.min(order.len());
        if count < order.len() {
            order.select_nth_unstable(count);
            order.truncate(count);
        }
        for (_, _, ip) in order {
            self.forget(ip);
        }
        count
    }

    fn forget(&mut self, ip: IpAddr) {
        let Some(entry) = self.addresses.remove(&ip) else { return };
        // Whoever waits for it asks again.
        entry.changed.notify_waiters();
        // An address that the stream never heard of needs no unsubscribing.
        if !self.added.remove(&Subscription::Address(ip)) {
            self.removed.insert(Subscription::Address(ip));
        }
        if let Resolution::Service(key) = entry.resolution {
            // Whoever watches it keeps the last value: it was not deleted.
            drop(self.unname(&key));
        }
    }
}
