//! What is known of proxies on this replica: what those on its streams reported, and the clocks of those that it signed for. Evidence
//! for status, rotations and rollouts; what proxies measured will be kept here, too.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use bowline_proxy::contract::proto::Report;

use crate::cluster::namespaced_name::NamespacedName;

/// One slot of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProxyKey {
    /// UID of the pod.
    pub uid: String,
    /// `a` or `b`.
    pub slot: String,
}

/// What is known of a proxy whose stream is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyState {
    /// Its pod.
    pub pod: NamespacedName,
    /// Name of its Mesh.
    pub mesh: String,
    /// Its version.
    pub version: String,
    /// What it lives with; `None` until it says so.
    pub report: Option<Report>,
    /// Resources that it refused and were not replaced since.
    pub refused: u32,
    /// When it was last heard of.
    pub seen: SystemTime,
}

/// Most clocks that are remembered.
const MAX_CLOCKS: usize = 20_000;

type Streams = HashMap<ProxyKey, (u64, ProxyState)>;

/// How the clock of a pod differed when this replica signed for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// The pod.
    pub pod: NamespacedName,
    /// Name of its Mesh.
    pub mesh: String,
    /// Its clock minus ours, in milliseconds.
    pub skew_ms: i64,
}

/// What this replica knows of proxies: those on its streams, and the clocks of those that it signed for. Cheap to clone; bounded by the
/// number of streams and by [`MAX_CLOCKS`].
#[derive(Debug, Clone, Default)]
pub struct Reports {
    streams: Arc<Mutex<Streams>>,
    clocks: Arc<Mutex<HashMap<String, Clock>>>,
}

impl Reports {
    /// A stream opened: `stream` tells it from an earlier one of the same proxy, which it replaces.
    pub fn opened(&self, key: ProxyKey, stream: u64, state: ProxyState) {
        self.lock().insert(key, (stream, state));
    }

    /// Something was heard on a stream.
    pub fn heard(&self, key: &ProxyKey, stream: u64, note: impl FnOnce(&mut ProxyState)) {
        if let Some((_, state)) = self.lock().get_mut(key).filter(|(of, _)| *of == stream) {
            state.seen = SystemTime::now();
            note(state);
        }
    }

    /// A stream ended.
    pub fn closed(&self, key: &ProxyKey, stream: u64) {
        let mut streams = self.lock();
        if streams.get(key).is_some_and(|(of, _)| *of == stream) {
            streams.remove(key);
        }
    }

    /// Every proxy of a Mesh.
    #[must_use]
    pub fn of_mesh(&self, mesh: &str) -> Vec<(ProxyKey, ProxyState)> {
        let streams = self.lock();
        streams.iter().filter(|(_, (_, s))| s.mesh == mesh).map(|(k, (_, s))| (k.clone(), s.clone())).collect()
    }

    /// How many proxies of a Mesh run each version.
    #[must_use]
    pub fn versions(&self, mesh: &str) -> BTreeMap<String, u32> {
        let mut versions = BTreeMap::new();
        for (_, state) in self.lock().values().filter(|(_, s)| s.mesh == mesh) {
            *versions.entry(state.version.clone()).or_default() += 1;
        }
        versions
    }

    /// A leaf was signed for a pod, whose clock differed by so much.
    pub fn signed(&self, mesh: &str, uid: &str, pod: NamespacedName, skew_ms: i64) {
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        if clocks.len() >= MAX_CLOCKS && !clocks.contains_key(uid) {
            // The well-behaved tell nothing that their absence does not.
            clocks.retain(|_, c| c.skew_ms.unsigned_abs() > 1000);
            if clocks.len() >= MAX_CLOCKS {
                return;
            }
        }
        clocks.insert(uid.to_owned(), Clock { pod, mesh: mesh.to_owned(), skew_ms });
    }

    /// Clocks of a Mesh's pods, by UID; forgets those of which `is_there` says that they are gone.
    pub fn clocks(&self, mesh: &str, is_there: impl Fn(&str, &NamespacedName) -> bool) -> Vec<(String, Clock)> {
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.retain(|uid, clock| is_there(uid, &clock.pod));
        clocks.iter().filter(|(_, c)| c.mesh == mesh).map(|(uid, c)| (uid.clone(), c.clone())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_stream_does_not_speak_for_its_successor() {
        let reports = Reports::default();
        let key = ProxyKey { uid: "u".into(), slot: "a".into() };
        let state = ProxyState {
            pod: NamespacedName::new("shop", "web"),
            mesh: "default".into(),
            version: "0.1.0".into(),
            report: None,
            refused: 0,
            seen: SystemTime::now(),
        };
        reports.opened(key.clone(), 1, state.clone());
        reports.opened(key.clone(), 2, state);
        reports.heard(&key, 1, |s| s.refused = 9);
        reports.closed(&key, 1);
        assert_eq!(reports.of_mesh("default").len(), 1);
        assert_eq!(reports.of_mesh("default")[0].1.refused, 0);
        assert_eq!(reports.versions("default"), [("0.1.0".to_owned(), 1)].into());
        reports.closed(&key, 2);
        assert!(reports.of_mesh("default").is_empty());
    }
}
