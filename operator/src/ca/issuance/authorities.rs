//! Every replica's memory of all Meshes' CA state: the last good one, kept fresh by a watch on the Secret.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex as Lock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use tokio::sync::{Mutex, watch};

use super::{
    mesh_ca::MeshCa,
    state::{CaState, StateError},
};
use crate::runtime::{client::Late, config::CA_SECRET};

/// How long a confirmation may take: below what a proxy waits for its leaf, so that it is told, and can try another replica.
const CONFIRMED: Duration = Duration::from_secs(4);

/// One Mesh's CA.
#[derive(Clone)]
struct Entry {
    state: Arc<CaState>,
    ca: Arc<MeshCa>,
}

/// What the Secret holds for a Mesh as of the last event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretEntry {
    /// A good state.
    Good,
    /// Nothing.
    Missing,
    /// Something that cannot be used.
    Bad(StateError),
}

/// CA state of all Meshes.
#[derive(Clone)]
pub struct Authorities {
    entries: Arc<ArcSwap<BTreeMap<String, Entry>>>,
    held: Arc<ArcSwap<BTreeMap<String, SecretEntry>>>,
    changes: watch::Sender<u64>,
    /// Resource version of what was observed last.
    version: Arc<Lock<u64>>,
    reads: Arc<Reads>,
    /// Since when the state of a Mesh is known to be lost.
    lost: Arc<Lock<BTreeMap<String, SystemTime>>>,
}

/// Reads of the Secret that many wait for together.
#[derive(Default)]
struct Reads {
    /// How many have begun.
    begun: AtomicU64,
    /// The number of the last that ended well.
    ended: Mutex<u64>,
}

impl Default for Authorities {
    fn default() -> Self {
        Self::new()
    }
}

impl Authorities {
    /// Nothing known yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: Arc::default(),
            held: Arc::default(),
            changes: watch::channel(0).0,
            version: Arc::default(),
            reads: Arc::default(),
            lost: Arc::default(),
        }
    }

    /// The CA of a Mesh: the last good state, even when the Secret was damaged since.
    #[must_use]
    pub fn mesh(&self, name: &str) -> Option<Arc<MeshCa>> {
        self.entries.load().get(name).map(|e| Arc::clone(&e.ca))
    }

    /// The whole state of a Mesh's CA, keys included.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<Arc<CaState>> {
        self.entries.load().get(name).map(|e| Arc::clone(&e.state))
    }

    /// What the Secret holds for a Mesh.
    #[must_use]
    pub fn secret_entry(&self, name: &str) -> SecretEntry {
        self.held.load().get(name).cloned().unwrap_or(SecretEntry::Missing)
    }

    /// The state of a Mesh was found to be lost at `now`, or not to be.
    pub fn note(&self, mesh: &str, is_lost: bool, now: SystemTime) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if is_lost {
            lost.entry(mesh.to_owned()).or_insert(now);
        } else {
            lost.remove(mesh);
        }
    }

    /// For how long it has been known that it is lost.
    #[must_use]
    pub fn lost_for(&self, mesh: &str, now: SystemTime) -> Duration {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get(mesh).and_then(|since| now.duration_since(*since).ok()).unwrap_or_default()
    }

    /// Names of the Meshes whose state is known.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.entries.load().keys().cloned().collect()
    }

    /// Changes whenever the Secret does.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Makes sure that memory is not older than this call: whatever is signed afterwards is signed by the issuer that is active at that
    /// moment, however far the watch lags behind. Calls at the same time share a read, and none waits longer than [`CONFIRMED`], whoever
    /// else's read it waits for.
    ///
    /// # Errors
    /// When the Secret cannot be read.
    pub async fn confirm(&self, api: &Api<Secret>) -> kube::Result<()> {
        tokio::time::timeout(CONFIRMED, self.read(api)).await.unwrap_or_else(|_| Err(Late::error(CONFIRMED)))
    }

    async fn read(&self, api: &Api<Secret>) -> kube::Result<()> {
        // A read that has begun already may have been answered before this call.
        let wanted = self.reads.begun.load(Ordering::SeqCst) + 1;
        let mut ended = self.reads.ended.lock().await;
        if *ended >= wanted {
            return Ok(());
        }
        let this = self.reads.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let secret = api.get_opt(CA_SECRET).await?;
        self.observe(secret.as_ref());
        *ended = this;
        Ok(())
    }

    /// Takes over what the Secret holds now; `None`: it is gone. What is missing or damaged stays as it was, and so does everything when
    /// this is older than what was observed before.
    pub fn observe(&self, secret: Option<&Secret>) {
        let mut version = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(new) = secret.and_then(|s| s.resource_version()).and_then(|v| v.parse().ok()) {
            // What was judged already is not judged again: every confirmation reads it anew.
            if new < *version || new == *version && !self.held.load().is_empty() {
                return;
            }
            *version = new;
        }
        let mut entries = BTreeMap::clone(&self.entries.load());
        let mut held = BTreeMap::new();
        for (key, value) in secret.and_then(|s| s.data.as_ref()).into_iter().flatten() {
            let Some(mesh) = key.strip_suffix(".json") else { continue };
            let judged = match Self::entry(mesh, &value.0, entries.get(mesh)) {
                Ok(entry) => {
                    entries.insert(mesh.to_owned(), entry);
                    SecretEntry::Good
                }
                Err(error) => {
                    tracing::error!(mesh, %error, "the CA's state cannot be used, the last good one stays in force");
                    SecretEntry::Bad(error)
                }
            };
            held.insert(mesh.to_owned(), judged);
        }
        let same = **self.held.load() == held && {
            let old = self.entries.load();
            old.len() == entries.len()
                && old.iter().all(|(m, e)| entries.get(m).is_some_and(|n| Arc::ptr_eq(&e.ca, &n.ca)))
        };
        self.entries.store(Arc::new(entries));
        self.held.store(Arc::new(held));
        drop(version);
        if !same {
            self.changes.send_modify(|n| *n += 1);
        }
    }

    /// Forgets a Mesh that is gone.
    pub fn forget(&self, mesh: &str) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).remove(mesh);
        self.entries.rcu(|old| {
            let mut entries = BTreeMap::clone(old);
            entries.remove(mesh);
            entries
        });
        self.changes.send_modify(|n| *n += 1);
    }

    fn entry(mesh: &str, bytes: &[u8], known: Option<&Entry>) -> Result<Entry, StateError> {
        let state = CaState::parse(mesh, bytes)?;
        if let Some(known) = known.filter(|k| *k.state == state) {
            return Ok(known.clone());
        }
        let ca = Arc::new(MeshCa::new(&state)?);
        Ok(Entry { state: Arc::new(state), ca })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;
    use crate::ca::testing;

    fn secret(entries: &[(&str, &[u8])]) -> Secret {
        let data = entries.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.to_vec()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    #[test]
    fn the_last_good_state_stays_in_force() {
        let authorities = Authorities::new();
        let mut changes = authorities.subscribe();
        let state = testing::state("a");
        authorities.observe(Some(&secret(&[("a.json", &state.to_json())])));
        assert!(changes.has_changed().unwrap());
        changes.borrow_and_update();
        assert_eq!(authorities.secret_entry("a"), SecretEntry::Good);
        let before = authorities.mesh("a").unwrap();
        for damaged in [None, Some(secret(&[])), Some(secret(&[("a.json", b"")])), Some(secret(&[("a.json", b"{}")]))] {
            authorities.observe(damaged.as_ref());
            assert_ne!(authorities.secret_entry("a"), SecretEntry::Good);
            assert!(Arc::ptr_eq(&authorities.mesh("a").unwrap(), &before));
            assert_eq!(*authorities.state("a").unwrap(), state);
        }
        authorities.forget("a");
        assert!(authorities.mesh("a").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_silent_holds_up_nobody_for_longer_than_it_is_asked() {
        let state = testing::state("a");
        let served = serde_json::to_vec(&secret(&[("a.json", &state.to_json())])).unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        let silent_at_first = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let (first, served) = (count.fetch_add(1, Ordering::SeqCst) == 0, served.clone());
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::from(served)))
            }
        });
        let api = Api::namespaced(kube::Client::new(silent_at_first, "x"), "x");
        let authorities = Authorities::new();
        let later = async {
            tokio::time::sleep(CONFIRMED / 2).await;
            authorities.confirm(&api).await
        };
        let began = tokio::time::Instant::now();
        let (first, second) = tokio::join!(authorities.confirm(&api), later);
        assert!(first.unwrap_err().to_string().contains("4s"));
        second.expect("whoever came later waits only for the dead read to end");
        assert_eq!(began.elapsed(), CONFIRMED);
        assert_eq!(authorities.secret_entry("a"), SecretEntry::Good);
    }

    #[test]
    fn meshes_do_not_touch_each_other() {
        let authorities = Authorities::new();
        let (a, b) = (testing::state("a"), testing::state("b"));
        authorities.observe(Some(&secret(&[("a.json", &a.to_json()), ("b.json", b"?")])));
        assert_eq!(authorities.secret_entry("a"), SecretEntry::Good);
        assert!(matches!(authorities.secret_entry("b"), SecretEntry::Bad(_)));
        assert!(authorities.mesh("b").is_none());
        // An entry under another Mesh's name is nobody's.
        authorities.observe(Some(&secret(&[("a.json", &b.to_json())])));
        assert!(matches!(authorities.secret_entry("a"), SecretEntry::Bad(StateError::Mesh(_))));
        assert_eq!(authorities.mesh("a").unwrap().mesh, "a");
    }
}
