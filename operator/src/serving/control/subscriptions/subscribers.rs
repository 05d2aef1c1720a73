//! Who subscribes, and how much memory each takes. Where all together would take too much, whoever takes most is evicted: no proxy, and no
//! few, can keep others from what they need.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::Notify;

use super::{super::key::Key, limits::TooManySubscriptions};

/// All subscribers.
#[derive(Default)]
pub(super) struct Subscribers {
    all: HashMap<u64, Subscriber>,
    /// What all take.
    bytes: usize,
}

struct Subscriber {
    pending: Arc<PendingKeys>,
    bytes: usize,
}

impl Subscribers {
    pub(super) fn add(&mut self, id: u64) -> Arc<PendingKeys> {
        let pending = Arc::new(PendingKeys::default());
        self.all.insert(id, Subscriber { pending: Arc::clone(&pending), bytes: 0 });
        pending
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(subscriber) = self.all.remove(&id) {
            self.bytes -= subscriber.bytes;
        }
    }

    pub(super) fn pending(&self, id: u64) -> Option<&PendingKeys> {
        self.all.get(&id).map(|subscriber| &*subscriber.pending)
    }

    /// `bytes` more for a subscriber, within `limit` for all.
    ///
    /// # Errors
    /// When no other takes as much as that one would, or it was evicted itself.
    pub(super) fn reserve(&mut self, id: u64, bytes: usize, limit: usize) -> Result<(), TooManySubscriptions> {
        let mine = self.all.get(&id).ok_or(TooManySubscriptions::OfAll)?.bytes + bytes;
        while self.bytes + bytes > limit {
            let others = self.all.iter().filter(|(other, subscriber)| **other != id && subscriber.bytes >= mine);
            let most = others
                .max_by_key(|(_, subscriber)| subscriber.bytes)
                .map(|(most, _)| *most)
                .ok_or(TooManySubscriptions::OfAll)?;
            if let Some(subscriber) = self.all.get(&most) {
                subscriber.pending.evict();
            }
            self.remove(most);
        }
        self.bytes += bytes;
        if let Some(subscriber) = self.all.get_mut(&id) {
            subscriber.bytes = mine;
        }
        Ok(())
    }

    pub(super) fn release(&mut self, id: u64, bytes: usize) {
        if let Some(subscriber) = self.all.get_mut(&id) {
            subscriber.bytes -= bytes;
            self.bytes -= bytes;
        }
    }
}

/// What one subscriber has yet to take.
#[derive(Default)]
pub(super) struct PendingKeys {
    /// Changed keys, and since when.
    keys: Mutex<HashMap<Key, Instant>>,
    wake: Notify,
    evicted: AtomicBool,
}

impl PendingKeys {
    pub(super) fn mark(&self, key: &Key, since: Instant) {
        self.keys().entry(key.clone()).or_insert(since);
        self.wake.notify_one();
    }

    pub(super) fn keys(&self) -> MutexGuard<'_, HashMap<Key, Instant>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when something changed.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    fn evict(&self) {
        self.evicted.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Relaxed)
    }
}
