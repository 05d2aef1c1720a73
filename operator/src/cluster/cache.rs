//! Watch → store: what every replica keeps in memory of the cluster.

use std::{
    collections::HashSet,
    fmt::Debug,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::StreamExt;
use k8s_openapi::{api::core::v1::Pod, serde::de::DeserializeOwned};
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use tokio::sync::watch;

use crate::runtime::{readiness::ReadinessCheck, shutdown::TaskResult};

/// Objects of one kind as of the last event seen.
pub struct Cache<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    changes: watch::Receiver<u64>,
    dirty: Dirty<K>,
}

/// Objects that changed since somebody last took them; `None` while nobody wants to know. Bounded by the number of objects, because
/// whoever tracks takes what is there.
type Dirty<K> = Arc<Mutex<Option<HashSet<ObjectRef<K>>>>>;

impl<K: Resource<DynamicType = ()> + Clone + 'static> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), changes: self.changes.clone(), dirty: Arc::clone(&self.dirty) }
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// An empty cache and the task that fills it for as long as it is polled. `trim` takes from every object what nobody reads;
    /// `ready` is set when the first list is complete.
    pub fn new(
        api: Api<K>,
        config: watcher::Config,
        trim: fn(&mut K),
        ready: ReadinessCheck,
    ) -> (Self, impl Future<Output = TaskResult> + Send) {
        let (store, writer) = reflector::store();
        let (bump, changes) = watch::channel(0_u64);
        let dirty: Dirty<K> = Arc::default();
        let (reader, marks) = (store.clone(), Arc::clone(&dirty));
        let fill = async move {
            let events = watcher(api, config).default_backoff().modify(trim).reflect(writer);
            let mut events = pin!(events);
            let mut listing = true;
            // Before a list is complete the store shows what was; whatever that list lacks is gone afterwards.
            let mut before: Vec<ObjectRef<K>> = Vec::new();
            while let Some(event) = events.next().await {
                match &event {
                    Ok(watcher::Event::Init) => before = refs(&reader),
                    Ok(watcher::Event::InitDone) => {
                        mark(&marks, before.drain(..).chain(refs(&reader)));
                    }
                    Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => {
                        mark(&marks, [ObjectRef::from_obj(object)]);
                    }
                    Ok(watcher::Event::InitApply(_)) | Err(_) => {}
                }
                match event {
                    Ok(watcher::Event::InitDone) => {
                        listing = false;
                        ready.set(true);
                        bump.send_modify(|n| *n += 1);
                    }
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => listing = true,
                    Ok(_) if listing => {}
                    Ok(_) => bump.send_modify(|n| *n += 1),
                    // Watches end and begin again all the time; only what lasts is worth a line, and the back-off spaces them.
                    Err(error) => {
                        tracing::warn!(kind = %<K as Resource>::kind(&()), %error, "watch failed, it is tried again")
                    }
                }
            }
            Ok(())
        };
        (Self { store, changes, dirty }, fill)
    }

    /// A cache with fixed content, for tests.
    #[must_use]
    pub fn of(objects: impl IntoIterator<Item = K>) -> Self {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&watcher::Event::Init);
        for object in objects {
            writer.apply_watcher_event(&watcher::Event::InitApply(object));
        }
        writer.apply_watcher_event(&watcher::Event::InitDone);
        Self { store, changes: watch::channel(1).1, dirty: Arc::default() }
    }

    /// The object of a cluster-scoped kind.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new(name))
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Cache<K> {
    /// Every object, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// Changes with every event, and once when the first list is complete.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Begins to note which objects change; all that are there count as changed. For one reader.
    pub fn track(&self) {
        *self.dirty.lock().unwrap_or_else(PoisonError::into_inner) = Some(HashSet::new());
        mark(&self.dirty, refs(&self.store));
    }

    /// Takes the objects that changed since: as they are now, or `None` for those that are gone.
    #[must_use]
    pub fn take_changed(&self) -> Vec<(ObjectRef<K>, Option<Arc<K>>)> {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = dirty.as_mut().map(std::mem::take).unwrap_or_default();
        drop(dirty);
        taken.into_iter().map(|key| (key.clone(), self.store.get(&key))).collect()
    }

    /// The store behind it.
    #[must_use]
    pub fn store(&self) -> &Store<K> {
        &self.store
    }

    /// Ends when the first list is complete.
    pub async fn synced(&self) {
        let mut changes = self.changes.clone();
        // An error means that the filling task is gone; then so is the process.
        let _ = changes.wait_for(|n| *n > 0).await;
    }
}

fn refs<K: Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>) -> Vec<ObjectRef<K>> {
    store.state().iter().map(|object| ObjectRef::from_obj(object.as_ref())).collect()
}

fn mark<K: Resource<DynamicType = ()>>(dirty: &Dirty<K>, keys: impl IntoIterator<Item = ObjectRef<K>>) {
    if let Some(dirty) = dirty.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        dirty.extend(keys);
    }
}

/// Takes from any object what nobody here reads.
pub fn trim_meta<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
}

/// Takes from a pod what nobody here reads: managed fields, volumes, and of its containers environment, mounts, command and
/// probes.
pub fn trim_pod(pod: &mut Pod) {
    trim_meta(pod);
    pod.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
    let Some(spec) = pod.spec.as_mut() else { return };
    spec.volumes = None;
    spec.affinity = None;
    spec.tolerations = None;
    for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        c.env = None;
        c.env_from = None;
        c.volume_mounts = None;
        c.command = None;
        c.args = None;
        c.liveness_probe = None;
        c.readiness_probe = None;
        c.startup_probe = None;
        c.lifecycle = None;
        c.resources = None;
        c.security_context = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use kube::{Client, client::Body};
    use serde_json::json;
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicUsize, Ordering},
    };

    /// Lists `a` and `b`, ends the watch as expired, and lists `b` and `c` from then on.
    fn forgetful_api() -> Client {
        let lists = Arc::new(AtomicUsize::new(0));
        let answer = move |request: Request<Body>| {
            let watches = request.uri().query().is_some_and(|q| q.contains("watch=true"));
            let round = if watches { lists.load(Ordering::SeqCst) } else { lists.fetch_add(1, Ordering::SeqCst) };
            async move {
                if watches && round > 1 {
                    std::future::pending::<()>().await;
                }
                let names = if round == 0 { ["a", "b"] } else { ["b", "c"] };
                let pods = names.map(|name| json!({ "metadata": { "name": name, "namespace": "shop" } }));
                let body = if watches {
                    json!({ "type": "ERROR", "object": { "kind": "Status", "status": "Failure", "code": 410,
                        "message": "too old", "reason": "Expired" } })
                } else {
                    json!({ "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": pods })
                };
                Ok::<_, std::io::Error>(Response::new(Body::from(format!("{body}\n").into_bytes())))
            }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    // The watch waits before it begins again: on a clock that need not be waited for, since all else is in memory.
    #[tokio::test(start_paused = true)]
    async fn what_vanished_while_nobody_watched_counts_as_changed() {
        let ready = crate::runtime::readiness::Readiness::default().check("pods");
        let (cache, fill) =
            Cache::<Pod>::new(Api::all(forgetful_api()), watcher::Config::default(), trim_pod, ready.clone());
        let filling = tokio::spawn(fill);
        cache.synced().await;
        assert!(ready.is_set());
        assert!(cache.take_changed().is_empty(), "nobody tracks yet");
        cache.track();
        let changed = |cache: &Cache<Pod>| -> BTreeMap<String, bool> {
            cache.take_changed().into_iter().map(|(key, pod)| (key.name, pod.is_some())).collect()
        };
        let mut seen = changed(&cache);
        let mut changes = cache.subscribe();
        while seen != [("a".to_owned(), false), ("b".to_owned(), true), ("c".to_owned(), true)].into() {
            let more = tokio::time::timeout(std::time::Duration::from_secs(60), changes.changed()).await;
            more.expect("the vanished pod is not noticed").unwrap();
            seen.extend(changed(&cache));
        }
        filling.abort();
    }
}
