//! Makes room in a full table: the longest unused addresses go, those whose Service somebody still watches last.

use std::net::IpAddr;

use super::{
    Key,
    tables::{Known, Tables},
};

impl Tables {
    /// Forgets the `count` addresses that were unused for longest; gives how many that were.
    pub(super) fn evict(&mut self, count: usize) -> usize {
        let mut order: Vec<(bool, u64, IpAddr)> = self
            .addresses
            .iter()
            .map(|(ip, entry)| {
                let watched = match &entry.known {
                    Known::Service(key) => self.services.get(key).is_some_and(|s| s.value.receiver_count() > 0),
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
        if !self.added.remove(&Key::Address(ip)) {
            self.removed.insert(Key::Address(ip));
        }
        if let Known::Service(key) = entry.known {
            // Whoever watches it keeps the last value: it was not said to be gone.
            drop(self.unname(&key));
        }
    }
}
