//! One session for each slot of a pod: that of the latest stream. A proxy that connects anew is let in at once, whether or not anybody has
//! noticed that its last stream is dead, and no pod can have more than two.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::serving::reports::ProxyKey;

/// The session of every proxy; clones share it. Bounded by the number of streams.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// Dropped to end the stream.
    streams: HashMap<ProxyKey, (u64, oneshot::Sender<()>)>,
}

/// Held by a stream for its life.
#[derive(Debug)]
pub(super) struct Session {
    sessions: Sessions,
    key: ProxyKey,
    id: u64,
    replaced: oneshot::Receiver<()>,
}

impl Sessions {
    /// The session of a new stream; that of the last stream of the same proxy ends.
    pub(super) fn begin(&self, key: ProxyKey) -> Session {
        let (keep, replaced) = oneshot::channel();
        let mut table = self.table();
        table.next += 1;
        let id = table.next;
        table.streams.insert(key.clone(), (id, keep));
        drop(table);
        Session { sessions: self.clone(), key, id, replaced }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Ends when another stream of the same proxy has begun.
    pub(super) async fn replaced(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.replaced).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut table = self.sessions.table();
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
        let sessions = Sessions::default();
        let key = |slot: &str| ProxyKey { uid: "u".into(), slot: slot.into() };
        let mut first = sessions.begin(key("a"));
        let mut other = sessions.begin(key("b"));
        assert!(first.replaced().now_or_never().is_none());
        let mut second = sessions.begin(key("a"));
        assert!(first.replaced().now_or_never().is_some());
        // Its end takes nothing from its successor.
        drop(first);
        assert!(second.replaced().now_or_never().is_none() && other.replaced().now_or_never().is_none());
        drop((second, other));
        assert!(sessions.table().streams.is_empty());
    }
}
