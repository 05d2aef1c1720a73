//! One stream for each slot of a pod: the latest. A proxy that connects anew is let in at once, whether or not anybody has noticed that its
//! last stream is dead, and no pod can have more than two.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::evidence::ProxyKey;

/// The latest stream of every proxy; clones share it. Bounded by the number of streams.
#[derive(Debug, Clone, Default)]
pub(super) struct Latest(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// Dropped to end the stream.
    streams: HashMap<ProxyKey, (u64, oneshot::Sender<()>)>,
}

/// Held by a stream for its life.
#[derive(Debug)]
pub(super) struct Turn {
    latest: Latest,
    key: ProxyKey,
    id: u64,
    replaced: oneshot::Receiver<()>,
}

impl Latest {
    /// The turn of a new stream; the last one of the same proxy has had its.
    pub(super) fn take(&self, key: ProxyKey) -> Turn {
        let (keep, replaced) = oneshot::channel();
        let mut table = self.table();
        table.next += 1;
        let id = table.next;
        table.streams.insert(key.clone(), (id, keep));
        drop(table);
        Turn { latest: self.clone(), key, id, replaced }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Ends when another stream of the same proxy has begun.
    pub(super) async fn replaced(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.replaced).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut table = self.latest.table();
        if table.streams.get(&self.key).is_some_and(|(of, _)| *of == self.id) {
            table.streams.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_latest_of_a_slot_has_it_alone() {
        let latest = Latest::default();
        let key = |slot: &str| ProxyKey { uid: "u".into(), slot: slot.into() };
        let mut first = latest.take(key("a"));
        let mut other = latest.take(key("b"));
        assert!(first.replaced().now_or_never().is_none());
        let mut second = latest.take(key("a"));
        assert!(first.replaced().now_or_never().is_some());
        // Its end takes nothing from its successor.
        drop(first);
        assert!(second.replaced().now_or_never().is_none() && other.replaced().now_or_never().is_none());
        drop((second, other));
        assert!(latest.table().streams.is_empty());
    }
}
