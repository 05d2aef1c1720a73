//! What the proxies on this replica's streams said that they live with: evidence for status, rotations and rollouts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use bowline_proxy::proto::Report;

use super::view::Name;

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
    pub pod: Name,
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

type Streams = HashMap<ProxyKey, (u64, ProxyState)>;

/// The proxies on this replica's streams; cheap to clone. Bounded by the number of streams.
#[derive(Debug, Clone, Default)]
pub struct Evidence(Arc<Mutex<Streams>>);

impl Evidence {
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_stream_does_not_speak_for_its_successor() {
        let evidence = Evidence::default();
        let key = ProxyKey { uid: "u".into(), slot: "a".into() };
        let state = ProxyState {
            pod: Name::new("shop", "web"),
            mesh: "default".into(),
            version: "0.1.0".into(),
            report: None,
            refused: 0,
            seen: SystemTime::now(),
        };
        evidence.opened(key.clone(), 1, state.clone());
        evidence.opened(key.clone(), 2, state);
        evidence.heard(&key, 1, |s| s.refused = 9);
        evidence.closed(&key, 1);
        assert_eq!(evidence.of_mesh("default").len(), 1);
        assert_eq!(evidence.of_mesh("default")[0].1.refused, 0);
        assert_eq!(evidence.versions("default"), [("0.1.0".to_owned(), 1)].into());
        evidence.closed(&key, 2);
        assert!(evidence.of_mesh("default").is_empty());
    }
}
