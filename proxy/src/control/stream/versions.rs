//! Which version of each resource is held and was sent: what a new stream announces (xDS: initial resource versions), and what the
//! digests of heartbeats are compared with. Pure.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    contract::{
        proto::{Digest, Heartbeat, ResourceKey, ResourceType, ResourceVersion},
        resource::{Service, ServiceKey},
    },
    control::{
        state::{Subscription, SubscriptionDelta},
        stream::resource_name::ResourceName,
    },
};

/// How long after a change of subscriptions a differing digest may be a message that is still on its way.
const SETTLING: Duration = Duration::from_secs(5);
/// Differing digests in a row after which that is no excuse.
const MOST_SUSPECTS: u32 = 4;
/// Most Services that are kept although no address names them yet.
const MAX_PARKED: usize = 256;

/// What is on record of a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Entry {
    /// The version in use.
    held: Option<u64>,
    /// The version that was sent last, in use or refused.
    sent: Option<u64>,
}

/// What the digests of a heartbeat show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DigestCheck {
    /// Both sides have the same.
    InSync,
    /// They differ, maybe because something is on its way.
    Unsettled,
    /// They differ for good.
    Diverged,
}

/// A Service that arrived before the address that names it.
#[derive(Debug)]
struct Parked {
    service: Option<Arc<Service>>,
    /// Whether a heartbeat has passed since.
    old: bool,
}

/// Versions by resource, across streams.
#[derive(Debug, Default)]
pub(super) struct Versions {
    entries: HashMap<ResourceName, Entry>,
    parked: HashMap<ServiceKey, Parked>,
    changed: Option<Instant>,
    suspects: u32,
}

impl Versions {
    /// Begins a new stream that wants `wanted`: gives what is held, and what is wanted and not held.
    pub(super) fn restart(&mut self, wanted: Vec<Subscription>) -> (Vec<ResourceVersion>, Vec<ResourceKey>) {
        let mut entries = HashMap::with_capacity(wanted.len() + 2);
        let (mut known, mut add) = (Vec::new(), Vec::new());
        let always = [ResourceName::TrustBundle, ResourceName::InboundPolicy];
        for name in always.into_iter().chain(wanted.into_iter().map(ResourceName::OnDemand)) {
            let held = self.entries.get(&name).and_then(|e| e.held);
            match held {
                Some(version) => known.push(name.to_version(version)),
                None if matches!(name, ResourceName::OnDemand(_)) => add.push(name.to_key()),
                None => {}
            }
            // What is known counts as sent: it comes again only if it changed.
            entries.insert(name, Entry { held, sent: held });
        }
        *self = Self { entries, ..Self::default() };
        (known, add)
    }

    /// Notes what became wanted and unwanted; gives both as the stream names them.
    pub(super) fn change(&mut self, changes: SubscriptionDelta, now: Instant) -> (Vec<ResourceKey>, Vec<ResourceKey>) {
        if changes != SubscriptionDelta::default() {
            self.changed = Some(now);
        }
        let remove = changes.remove.into_iter().map(|key| {
            let name = ResourceName::OnDemand(key);
            self.entries.remove(&name);
            name.to_key()
        });
        let remove = remove.collect();
        let add = changes.add.into_iter().map(|key| {
            let name = ResourceName::OnDemand(key);
            self.entries.entry(name.clone()).or_default();
            name.to_key()
        });
        (add.collect(), remove)
    }

    /// Notes that a version was sent, and whether it is in use.
    pub(super) fn sent(&mut self, name: ResourceName, version: u64, accepted: bool) {
        let entry = self.entries.entry(name).or_default();
        entry.sent = Some(version);
        if accepted {
            entry.held = Some(version);
        }
    }

    /// Keeps a Service until an address names it; `false` when there are too many.
    pub(super) fn park(&mut self, key: ServiceKey, service: Option<Arc<Service>>) -> bool {
        if self.parked.len() >= MAX_PARKED && !self.parked.contains_key(&key) {
            return false;
        }
        self.parked.insert(key, Parked { service, old: false });
        true
    }

    /// Takes a parked Service out.
    pub(super) fn take_parked(&mut self, key: &ServiceKey) -> Option<Option<Arc<Service>>> {
        self.parked.remove(key).map(|p| p.service)
    }

    /// Gives up Services that no address named between two heartbeats: to be unsubscribed.
    pub(super) fn unpark(&mut self) -> Vec<ResourceKey> {
        let mut gone = Vec::new();
        self.parked.retain(|key, parked| {
            if parked.old {
                gone.push(ResourceName::OnDemand(Subscription::Service(key.clone())));
            }
            !std::mem::replace(&mut parked.old, true)
        });
        for name in &gone {
            self.entries.remove(name);
        }
        gone.iter().map(ResourceName::to_key).collect()
    }

    /// Compares a heartbeat with what arrived.
    pub(super) fn check_digests(&mut self, beat: &Heartbeat, now: Instant) -> DigestCheck {
        let differs = beat.digests.iter().any(|theirs| {
            // Types of a newer control plane are not ours to judge.
            ResourceType::try_from(theirs.r#type).is_ok_and(|kind| self.digest(kind) != *theirs)
        });
        if !differs {
            self.suspects = 0;
            return DigestCheck::InSync;
        }
        self.suspects += 1;
        let settled = self.changed.is_none_or(|at| now.duration_since(at) >= SETTLING);
        if settled || self.suspects >= MOST_SUSPECTS { DigestCheck::Diverged } else { DigestCheck::Unsettled }
    }

    /// Digest over everything of a type that was sent and is still wanted, what is known to be absent included.
    #[must_use]
    pub(super) fn digest(&self, kind: ResourceType) -> Digest {
        let sent = self.entries.iter().filter(|(name, _)| name.kind() == kind).filter_map(|(_, e)| e.sent);
        let (count, xor) = sent.fold((0, 0), |(count, xor), version| (count + 1, xor ^ version));
        Digest { r#type: kind.into(), count, xor }
    }
}

#[cfg(test)]
mod tests;
