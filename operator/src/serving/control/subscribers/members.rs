//! Who subscribes, and how much of the hub's memory each takes. Where all together would take too much, whoever takes most makes room:
//! no proxy, and no few, can keep others from what they need.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::Notify;

use super::{Key, Subject, TooMany};

/// What a key takes at the hub, at its subscriber and at its stream, in bytes, without its text.
const KEY_BYTES: usize = 400;
/// How often its text is kept.
const COPIES: usize = 4;

/// What a wanted key takes, about, in bytes. Compiled resources are shared, and bounded by what there is in the cluster.
pub(super) fn cost(key: &Key) -> usize {
    let text = match key {
        Key::Bundle | Key::Subject(Subject::Address(_)) => 0,
        Key::Subject(Subject::Inbound(name) | Subject::Service(name)) => name.namespace.len() + name.name.len(),
    };
    KEY_BYTES + COPIES * text
}

/// All subscribers.
#[derive(Default)]
pub(super) struct Members {
    all: HashMap<u64, Member>,
    /// What all take.
    bytes: usize,
}

struct Member {
    inbox: Arc<Inbox>,
    bytes: usize,
}

impl Members {
    pub(super) fn join(&mut self, id: u64) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox::default());
        self.all.insert(id, Member { inbox: Arc::clone(&inbox), bytes: 0 });
        inbox
    }

    pub(super) fn leave(&mut self, id: u64) {
        if let Some(member) = self.all.remove(&id) {
            self.bytes -= member.bytes;
        }
    }

    pub(super) fn inbox(&self, id: u64) -> Option<&Inbox> {
        self.all.get(&id).map(|member| &*member.inbox)
    }

    /// `bytes` more for a member, within `limit` for all.
    ///
    /// # Errors
    /// When no other takes as much as that one would, or it made room itself.
    pub(super) fn take(&mut self, id: u64, bytes: usize, limit: usize) -> Result<(), TooMany> {
        let mine = self.all.get(&id).ok_or(TooMany::OfAll)?.bytes + bytes;
        while self.bytes + bytes > limit {
            let others = self.all.iter().filter(|(other, member)| **other != id && member.bytes >= mine);
            let most = others.max_by_key(|(_, member)| member.bytes).map(|(most, _)| *most).ok_or(TooMany::OfAll)?;
            if let Some(member) = self.all.get(&most) {
                member.inbox.make_room();
            }
            self.leave(most);
        }
        self.bytes += bytes;
        if let Some(member) = self.all.get_mut(&id) {
            member.bytes = mine;
        }
        Ok(())
    }

    pub(super) fn give_back(&mut self, id: u64, bytes: usize) {
        if let Some(member) = self.all.get_mut(&id) {
            member.bytes -= bytes;
            self.bytes -= bytes;
        }
    }
}

/// What one subscriber has yet to take.
#[derive(Default)]
pub(super) struct Inbox {
    /// Changed keys, and since when.
    dirty: Mutex<HashMap<Key, Instant>>,
    wake: Notify,
    made_room: AtomicBool,
}

impl Inbox {
    pub(super) fn mark(&self, key: &Key, since: Instant) {
        self.dirty().entry(key.clone()).or_insert(since);
        self.wake.notify_one();
    }

    pub(super) fn dirty(&self) -> MutexGuard<'_, HashMap<Key, Instant>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when something changed.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    fn make_room(&self) {
        self.made_room.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn made_room(&self) -> bool {
        self.made_room.load(Ordering::Relaxed)
    }
}
