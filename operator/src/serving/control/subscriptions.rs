//! Who subscribes to which resource. Every resource is compiled once per Mesh, when it is first subscribed to and whenever a change
//! touches it, and shared by all who subscribe to it. A subscriber has a set of keys that changed, not a queue of changes: however slow it reads, it costs no
//! more than what it subscribed to, and gets the latest.

pub mod limits;
mod subscribers;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bowline_proxy::contract::{proto::TrustBundle, validate::InvalidResource};

use self::{
    limits::{ALL_BYTES, MAX_SUBSCRIPTIONS, TooManySubscriptions},
    subscribers::{PendingKeys, Subscribers},
};
use super::{
    compile::{self, Compiled},
    index::{Index, Subject, Touched},
    key::{Key, type_name},
    metrics::{ControlMetrics, TypeLabel},
    view::MeshView,
};

/// One resource and who subscribes to it.
struct Entry {
    /// `None` as long as it could never be compiled, or nothing is known of the Mesh.
    current: Option<Compiled>,
    subscribers: HashSet<u64>,
}

#[derive(Default)]
struct Inner {
    index: Index,
    bundles: HashMap<String, TrustBundle>,
    entries: HashMap<String, HashMap<Key, Entry>>,
    subscribers: Subscribers,
    next: u64,
}

/// Index, compiled resources and subscribers; cheap to clone.
#[derive(Clone)]
pub struct Subscriptions {
    inner: Arc<Mutex<Inner>>,
    metrics: ControlMetrics,
    all_bytes: usize,
}

impl Subscriptions {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(metrics: ControlMetrics) -> Self {
        Self { inner: Arc::default(), metrics, all_bytes: ALL_BYTES }
    }

    /// As [`Subscriptions::new`], with another bound on the bytes of all subscriptions.
    #[cfg(test)]
    pub(super) fn bounded(metrics: ControlMetrics, all_bytes: usize) -> Self {
        Self { all_bytes, ..Self::new(metrics) }
    }

    /// Changes the index, and marks what that touches for its subscribers.
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
    pub fn subscribe(&self, mesh: &str) -> Subscription {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        let pending = inner.subscribers.add(id);
        Subscription { id, mesh: mesh.to_owned(), pending, keys: HashSet::new(), all: self.clone() }
    }

    /// How many resources are compiled, over all Meshes: those that somebody subscribes to.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.lock().entries.values().map(HashMap::len).sum()
    }

    /// Compiles a resource anew where somebody subscribes to it, and marks it for them if it is another one now.
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
        for pending in entry.subscribers.iter().filter_map(|id| inner.subscribers.pending(*id)) {
            pending.mark(key, now);
        }
    }

    fn failed(&self, mesh: &str, key: &Key, error: &InvalidResource) {
        let (r#type, key) = (type_name(key.kind()), key.text());
        tracing::error!(mesh, r#type, key, %error, "a resource is not shipped, the last good one stays: no proxy could load it");
        self.metrics.compile_failures.get_or_create(&TypeLabel { r#type }).inc();
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
) -> Result<Option<Compiled>, InvalidResource> {
    match key {
        Key::Bundle => bundles.get(mesh).map(compile::bundle).transpose(),
        Key::Subject(subject) => compile::compile(index, mesh, subject),
    }
}

/// What one proxy subscribes to; ends when dropped.
pub struct Subscription {
    id: u64,
    mesh: String,
    pending: Arc<PendingKeys>,
    keys: HashSet<Key>,
    all: Subscriptions,
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

    /// Subscribes to a resource, which counts as changed.
    ///
    /// # Errors
    /// When too much is subscribed to.
    pub fn add(&mut self, key: Key) -> Result<(), TooManySubscriptions> {
        let now = Instant::now();
        if !self.keys.contains(&key) {
            if self.keys.len() >= MAX_SUBSCRIPTIONS {
                return Err(TooManySubscriptions::OfOne);
            }
            let inner = &mut *self.all.lock();
            inner.subscribers.reserve(self.id, limits::cost(&key), self.all.all_bytes)?;
            let entries = inner.entries.entry(self.mesh.clone()).or_default();
            let (index, bundles, mesh) = (&inner.index, &inner.bundles, &self.mesh);
            let entry = entries.entry(key.clone()).or_insert_with(|| {
                let compiled = compile_key(index, bundles, mesh, &key);
                let current = compiled.inspect_err(|error| self.all.failed(mesh, &key, error)).ok().flatten();
                Entry { current, subscribers: HashSet::new() }
            });
            entry.subscribers.insert(self.id);
            self.keys.insert(key.clone());
        }
        self.pending.mark(&key, now);
        Ok(())
    }

    /// Unsubscribes from a resource.
    pub fn remove(&mut self, key: &Key) {
        if self.keys.remove(key) {
            let inner = &mut *self.all.lock();
            unsubscribe(inner, &self.mesh, key, self.id);
            inner.subscribers.release(self.id, limits::cost(key));
            self.pending.keys().remove(key);
        }
    }

    /// Whether it was evicted because others need the memory.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.pending.is_evicted()
    }

    /// Ends when something changed.
    pub async fn changed(&self) {
        self.pending.woken().await;
    }

    /// Takes changed resources, together about `max_bytes` large; what is left over is there at the next call. An address of a Service
    /// subscribes to that Service.
    ///
    /// # Errors
    /// When too much is subscribed to.
    pub fn take(&mut self, max_bytes: usize) -> Result<Vec<Changed>, TooManySubscriptions> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < max_bytes {
            let next = {
                let mut keys = self.pending.keys();
                let key = keys.keys().next().cloned();
                key.and_then(|key| keys.remove_entry(&key))
            };
            let Some((key, since)) = next else { break };
            let Some(compiled) = self.current(&key) else { continue };
            if let Some(service) = &compiled.implies {
                let service = Key::Subject(Subject::Service(service.clone()));
                if !self.keys.contains(&service) {
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
        !self.pending.keys().is_empty()
    }

    fn current(&self, key: &Key) -> Option<Compiled> {
        self.all.lock().entries.get(&self.mesh)?.get(key)?.current.clone()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.all.lock();
        inner.subscribers.remove(self.id);
        for key in &self.keys {
            unsubscribe(&mut inner, &self.mesh, key, self.id);
        }
    }
}

/// What nobody subscribes to is forgotten.
fn unsubscribe(inner: &mut Inner, mesh: &str, key: &Key, id: u64) {
    let Some(entries) = inner.entries.get_mut(mesh) else { return };
    if let Some(entry) = entries.get_mut(key) {
        entry.subscribers.remove(&id);
        if entry.subscribers.is_empty() {
            entries.remove(key);
        }
    }
    if entries.is_empty() {
        inner.entries.remove(mesh);
    }
}
