//! What one proxy subscribes to and what it was sent: what it is sent next is the difference.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use bowline_proxy::contract::proto::{Digest, Heartbeat, Resource, ResourceKey, ResourceType, ResourceVersion, Update};
use prometheus_client::metrics::histogram::Histogram;

use super::super::{
    index::Subject,
    key::Key,
    subscriptions::{Subscription, limits::TooManySubscriptions},
};
use crate::cluster::namespaced_name::NamespacedName;

/// Size from which on an update is closed, in bytes.
const BATCH_BYTES: usize = 256 << 10;

/// The state of one stream's deltas.
pub(super) struct DeltaState {
    pod: NamespacedName,
    pub(super) subscription: Subscription,
    /// Version of everything that is subscribed and was sent.
    sent: HashMap<Key, u64>,
    /// Services that addresses among these lead to.
    leads: HashMap<IpAddr, NamespacedName>,
    /// Seconds from a change to its being handed to the stream.
    push_seconds: Histogram,
}

impl DeltaState {
    /// Of a proxy in this pod.
    pub(super) fn new(pod: NamespacedName, subscription: Subscription, push_seconds: Histogram) -> Self {
        Self { pod, subscription, sent: HashMap::new(), leads: HashMap::new(), push_seconds }
    }

    /// Subscribes to what every proxy needs, and to what this one has `known` since an earlier stream.
    pub(super) fn start(&mut self, known: Vec<ResourceVersion>) -> Result<(), TooManySubscriptions> {
        let always = [Key::Bundle, Key::Subject(Subject::Inbound(self.pod.clone()))];
        for key in always {
            self.subscription.add(key)?;
        }
        for known in known {
            if let Some(key) = Key::parse(known.r#type, &known.key, &self.pod) {
                self.subscription.add(key.clone())?;
                self.sent.insert(key, known.version);
            }
        }
        Ok(())
    }

    /// Subscribes to what the proxy asks for.
    pub(super) fn subscribe(&mut self, keys: &[ResourceKey]) -> Result<(), TooManySubscriptions> {
        for key in keys.iter().filter_map(|k| Key::parse(k.r#type, &k.key, &self.pod)) {
            self.subscription.add(key)?;
        }
        Ok(())
    }

    /// Drops what the proxy unsubscribes from. A Service that one of its addresses still leads to is sent again instead: the proxy dropped
    /// it before it learned of that address.
    pub(super) fn unsubscribe(&mut self, keys: &[ResourceKey]) -> Result<(), TooManySubscriptions> {
        let mut services = Vec::new();
        for key in keys {
            let Some(key) = Key::parse(key.r#type, &key.key, &self.pod) else { continue };
            match key {
                Key::Subject(Subject::Address(ip)) => {
                    self.leads.remove(&ip);
                    self.drop_key(&key);
                }
                Key::Subject(Subject::Service(ref name)) => services.push((name.clone(), key)),
                // These two are always subscribed.
                Key::Bundle | Key::Subject(Subject::Inbound(_)) => {}
            }
        }
        let needed: HashSet<NamespacedName> =
            if services.is_empty() { HashSet::new() } else { self.leads.values().cloned().collect() };
        for (name, key) in services {
            if needed.contains(&name) {
                self.sent.remove(&key);
                self.subscription.add(key)?;
            } else {
                self.drop_key(&key);
            }
        }
        Ok(())
    }

    fn drop_key(&mut self, key: &Key) {
        self.subscription.remove(key);
        self.sent.remove(key);
    }

    /// What changed and was not sent yet; `None`: nothing.
    pub(super) fn update(&mut self) -> Result<Option<Update>, TooManySubscriptions> {
        let mut resources = Vec::new();
        while resources.is_empty() {
            let taken = self.subscription.take(BATCH_BYTES)?;
            if taken.is_empty() {
                return Ok(None);
            }
            for changed in taken {
                let version = changed.compiled.version;
                if let Key::Subject(Subject::Address(ip)) = changed.key {
                    match changed.compiled.implies {
                        Some(service) => self.leads.insert(ip, service),
                        None => self.leads.remove(&ip),
                    };
                }
                if self.sent.insert(changed.key.clone(), version) == Some(version) {
                    continue;
                }
                self.push_seconds.observe(changed.since.elapsed().as_secs_f64());
                resources.push(Resource {
                    r#type: changed.key.kind().into(),
                    key: changed.key.text(),
                    version,
                    body: changed.compiled.body,
                });
            }
        }
        Ok(Some(Update { resources }))
    }

    /// A digest of everything that was sent, by type.
    pub(super) fn heartbeat(&self) -> Heartbeat {
        let kinds =
            [ResourceType::TrustBundle, ResourceType::InboundPolicy, ResourceType::Address, ResourceType::Service];
        let digest = |kind: ResourceType| {
            let of_kind = self.sent.iter().filter(|(key, _)| key.kind() == kind);
            let (count, xor) = of_kind.fold((0, 0), |(count, xor), (_, version)| (count + 1, xor ^ version));
            Digest { r#type: kind.into(), count, xor }
        };
        Heartbeat { digests: kinds.into_iter().map(digest).collect() }
    }
}
