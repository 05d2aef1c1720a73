//! Who wants which resource. Every resource is compiled once per Mesh, when it is first wanted and whenever a change touches it, and
//! shared by all who want it. A subscriber has a set of keys that changed, not a queue of changes: however slow it reads, it costs no
//! more than what it subscribed to, and gets the latest.

mod members;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bowline_proxy::contract::{proto::TrustBundle, resource::ApplyError};

use self::members::{Inbox, Members};
pub use super::key::{Key, type_name};
use super::{
    compile::{self, Compiled},
    index::{Index, Subject, Touched},
    measure::{Measures, TypeLabel},
    view::MeshView,
};

/// Most resources that one proxy may subscribe to.
pub const MAX_SUBSCRIPTIONS: usize = 20_000;
/// Bytes that all subscriptions together may take, about: a hundred each for 5,000 proxies, and half of what the operator may have.
const ALL_BYTES: usize = 192 << 20;

/// A proxy wants more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// By itself.
    #[error("more than {MAX_SUBSCRIPTIONS} resources are subscribed: unsubscribe what is no longer used")]
    OfOne,
    /// Together with all others, of whom it wants the most.
    #[error(
        "all proxies together subscribe to more than this replica holds, and this one to the most: unsubscribe what is no longer used"
    )]
    OfAll,
}

/// One resource and who wants it.
struct Entry {
    /// `None` as long as it could never be compiled, or nothing is known of the Mesh.
    current: Option<Compiled>,
    wanted_by: HashSet<u64>,
}

#[derive(Default)]
struct Inner {
    index: Index,
    bundles: HashMap<String, TrustBundle>,
    entries: HashMap<String, HashMap<Key, Entry>>,
    members: Members,
    next: u64,
}

/// Index, compiled resources and subscribers; cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Mutex<Inner>>,
    measures: Measures,
    all_bytes: usize,
}

impl Hub {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(measures: Measures) -> Self {
        Self { inner: Arc::default(), measures, all_bytes: ALL_BYTES }
    }

    /// As [`Hub::new`], with another bound on the bytes of all subscriptions.
    #[cfg(test)]
    pub(super) fn bounded(measures: Measures, all_bytes: usize) -> Self {
        Self { all_bytes, ..Self::new(measures) }
    }

    /// Changes the index, and tells subscribers of what that touches.
    pub fn update(&self, change: impl FnOnce(&mut Index) -> Touched) {
        let now = Instant::now();
        let inner = &mut *self.lock();
        let touched = change(&mut inner.index);
        for mesh in inner.entries.keys().cloned().collect::<Vec<_>>() {
            for subject in &touched {
                self.refresh(inner, &mesh, &Key::Subject(subject.clone()), now);
            }
        }
    }

    /// A Mesh as it is now; `None`: it is gone, and its proxies keep what they have. Everything that its proxies see is looked at again.
    pub fn set_mesh(&self, mesh: &str, view: Option<MeshView>) {
        if self.lock().index.mesh(mesh) == view.as_ref() {
            return;
        }
        self.update(|index| index.set_mesh(mesh, view));
        let inner = &mut *self.lock();
        let keys: Vec<Key> = inner.entries.get(mesh).into_iter().flat_map(HashMap::keys).cloned().collect();
        for key in keys {
            self.refresh(inner, mesh, &key, Instant::now());
        }
    }

    /// The trust bundle of a Mesh as it is now.
    pub fn set_bundle(&self, mesh: &str, bundle: TrustBundle) {
        let inner = &mut *self.lock();
        if inner.bundles.get(mesh) != Some(&bundle) {
            inner.bundles.insert(mesh.to_owned(), bundle);
            self.refresh(inner, mesh, &Key::Bundle, Instant::now());
        }
    }

    /// A new subscriber.
    #[must_use]
    pub fn join(&self, mesh: &str) -> Subscription {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        let inbox = inner.members.join(id);
        Subscription { id, mesh: mesh.to_owned(), inbox, wanted: HashSet::new(), hub: self.clone() }
    }

    /// How many resources are compiled and wanted, over all Meshes.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.lock().entries.values().map(HashMap::len).sum()
    }

    /// Compiles a wanted resource anew and tells those who want it, if it is another one now.
    fn refresh(&self, inner: &mut Inner, mesh: &str, key: &Key, now: Instant) {
        let Some(entry) = inner.entries.get_mut(mesh).and_then(|entries| entries.get_mut(key)) else { return };
        let compiled = match compile_key(&inner.index, &inner.bundles, mesh, key) {
            Ok(Some(compiled)) => compiled,
            Ok(None) => return,
            Err(error) => {
                self.failed(mesh, key, &error);
                return;
            }
        };
        if entry.current.as_ref() == Some(&compiled) {
            return;
        }
        entry.current = Some(compiled);
        for inbox in entry.wanted_by.iter().filter_map(|id| inner.members.inbox(*id)) {
            inbox.mark(key, now);
        }
    }

    fn failed(&self, mesh: &str, key: &Key, error: &ApplyError) {
        let (r#type, key) = (type_name(key.kind()), key.text());
        tracing::error!(mesh, r#type, key, %error, "a resource is not shipped, the last good one stays: no proxy could load it");
        self.measures.compile_failures.get_or_create(&TypeLabel { r#type }).inc();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn compile_key(
    index: &Index,
    bundles: &HashMap<String, TrustBundle>,
    mesh: &str,
    key: &Key,
) -> Result<Option<Compiled>, ApplyError> {
    match key {
        Key::Bundle => bundles.get(mesh).map(compile::bundle).transpose(),
        Key::Subject(subject) => compile::compile(index, mesh, subject),
    }
}

/// What one proxy wants; leaves when dropped.
pub struct Subscription {
    id: u64,
    mesh: String,
    inbox: Arc<Inbox>,
    wanted: HashSet<Key>,
    hub: Hub,
}

/// A resource that changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// Which.
    pub key: Key,
    /// As it is now.
    pub compiled: Compiled,
    /// Since when.
    pub since: Instant,
}

impl Subscription {
    /// Tells this subscriber from others, for the life of the process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Wants a resource, which counts as changed.
    ///
    /// # Errors
    /// When too much is wanted.
    pub fn add(&mut self, key: Key) -> Result<(), TooMany> {
        let now = Instant::now();
        if !self.wanted.contains(&key) {
            if self.wanted.len() >= MAX_SUBSCRIPTIONS {
                return Err(TooMany::OfOne);
            }
            let inner = &mut *self.hub.lock();
            inner.members.take(self.id, members::cost(&key), self.hub.all_bytes)?;
            let entries = inner.entries.entry(self.mesh.clone()).or_default();
            let (index, bundles, mesh) = (&inner.index, &inner.bundles, &self.mesh);
            let entry = entries.entry(key.clone()).or_insert_with(|| {
                let compiled = compile_key(index, bundles, mesh, &key);
                let current = compiled.inspect_err(|error| self.hub.failed(mesh, &key, error)).ok().flatten();
                Entry { current, wanted_by: HashSet::new() }
            });
            entry.wanted_by.insert(self.id);
            self.wanted.insert(key.clone());
        }
        self.inbox.mark(&key, now);
        Ok(())
    }

    /// No longer wants a resource.
    pub fn remove(&mut self, key: &Key) {
        if self.wanted.remove(key) {
            let inner = &mut *self.hub.lock();
            leave(inner, &self.mesh, key, self.id);
            inner.members.give_back(self.id, members::cost(key));
            self.inbox.dirty().remove(key);
        }
    }

    /// Whether it was ended because others need the room.
    #[must_use]
    pub fn made_room(&self) -> bool {
        self.inbox.made_room()
    }

    /// Ends when something changed.
    pub async fn changed(&self) {
        self.inbox.woken().await;
    }

    /// Takes changed resources, together about `max_bytes` large; what is left over is there at the next call. An address of a Service
    /// subscribes to that Service.
    ///
    /// # Errors
    /// When too much is wanted.
    pub fn take(&mut self, max_bytes: usize) -> Result<Vec<Changed>, TooMany> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < max_bytes {
            let next = {
                let mut dirty = self.inbox.dirty();
                let key = dirty.keys().next().cloned();
                key.and_then(|key| dirty.remove_entry(&key))
            };
            let Some((key, since)) = next else { break };
            let Some(compiled) = self.current(&key) else { continue };
            if let Some(service) = &compiled.implies {
                let service = Key::Subject(Subject::Service(service.clone()));
                if !self.wanted.contains(&service) {
                    self.add(service)?;
                }
            }
            bytes += compiled.body.len() + 64;
            taken.push(Changed { key, compiled, since });
        }
        Ok(taken)
    }

    /// Whether something is left to be taken.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.inbox.dirty().is_empty()
    }

    fn current(&self, key: &Key) -> Option<Compiled> {
        self.hub.lock().entries.get(&self.mesh)?.get(key)?.current.clone()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.hub.lock();
        inner.members.leave(self.id);
        for key in &self.wanted {
            leave(&mut inner, &self.mesh, key, self.id);
        }
    }
}

/// What nobody wants is forgotten.
fn leave(inner: &mut Inner, mesh: &str, key: &Key, id: u64) {
    let Some(entries) = inner.entries.get_mut(mesh) else { return };
    if let Some(entry) = entries.get_mut(key) {
        entry.wanted_by.remove(&id);
        if entry.wanted_by.is_empty() {
            entries.remove(key);
        }
    }
    if entries.is_empty() {
        inner.entries.remove(mesh);
    }
}
