//! Which version of what is held and was sent: what a new stream greets with, and what heartbeats are compared with. Pure.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    contract::{
        proto::{Digest, Heartbeat, ResourceKey, ResourceType, ResourceVersion},
        resource::{Service, ServiceKey},
    },
    control::state::{Changes, Key},
};

/// How long after a change of subscriptions a differing digest may be a message that is still on its way.
const SETTLING: Duration = Duration::from_secs(5);
/// Differing digests in a row after which that is no excuse.
const MOST_SUSPECTS: u32 = 4;
/// Most Services that are kept although no address names them yet.
const MAX_PARKED: usize = 256;

/// A resource as the stream names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// The trust bundle.
    TrustBundle,
    /// The inbound policy.
    InboundPolicy,
    /// On demand.
    Key(Key),
}

impl Name {
    /// Reads the name of a resource; `None`: of no type or form that this version knows.
    #[must_use]
    pub fn parse(kind: i32, key: &str) -> Option<Self> {
        match ResourceType::try_from(kind).ok()? {
            ResourceType::TrustBundle => key.is_empty().then_some(Self::TrustBundle),
            ResourceType::InboundPolicy => key.is_empty().then_some(Self::InboundPolicy),
            ResourceType::Address => key.parse().ok().map(|ip: IpAddr| Self::Key(Key::Address(ip.to_canonical()))),
            ResourceType::Service => {
                let (namespace, name) = key.split_once('/')?;
                Some(Self::Key(Key::Service(ServiceKey { namespace: namespace.into(), name: name.into() })))
            }
            ResourceType::Unspecified => None,
        }
    }

    /// Its type.
    #[must_use]
    pub fn kind(&self) -> ResourceType {
        match self {
            Self::TrustBundle => ResourceType::TrustBundle,
            Self::InboundPolicy => ResourceType::InboundPolicy,
            Self::Key(Key::Address(_)) => ResourceType::Address,
            Self::Key(Key::Service(_)) => ResourceType::Service,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::TrustBundle | Self::InboundPolicy => String::new(),
            Self::Key(Key::Address(ip)) => ip.to_string(),
            Self::Key(Key::Service(key)) => key.to_string(),
        }
    }

    fn to_key(&self) -> ResourceKey {
        ResourceKey { r#type: self.kind().into(), key: self.text() }
    }

    fn to_version(&self, version: u64) -> ResourceVersion {
        ResourceVersion { r#type: self.kind().into(), key: self.text(), version }
    }
}

/// What is on record of a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Entry {
    /// The version in use.
    held: Option<u64>,
    /// The version that was sent last, in use or refused.
    sent: Option<u64>,
}

/// What a heartbeat tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Both sides mean the same.
    Agrees,
    /// They differ, maybe because something is on its way.
    Wait,
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
pub struct Ledger {
    entries: HashMap<Name, Entry>,
    parked: HashMap<ServiceKey, Parked>,
    changed: Option<Instant>,
    suspects: u32,
}

impl Ledger {
    /// Begins a new stream that wants `wanted`: gives what is held, and what is wanted and not held.
    pub fn restart(&mut self, wanted: Vec<Key>) -> (Vec<ResourceVersion>, Vec<ResourceKey>) {
        let mut entries = HashMap::with_capacity(wanted.len() + 2);
        let (mut known, mut add) = (Vec::new(), Vec::new());
        let always = [Name::TrustBundle, Name::InboundPolicy];
        for name in always.into_iter().chain(wanted.into_iter().map(Name::Key)) {
            let held = self.entries.get(&name).and_then(|e| e.held);
            match held {
                Some(version) => known.push(name.to_version(version)),
                None if matches!(name, Name::Key(_)) => add.push(name.to_key()),
                None => {}
            }
            // What is known counts as sent: it comes again only if it changed.
            entries.insert(name, Entry { held, sent: held });
        }
        *self = Self { entries, ..Self::default() };
        (known, add)
    }

    /// Notes what became wanted and unwanted; gives both as the stream names them.
    pub fn change(&mut self, changes: Changes, now: Instant) -> (Vec<ResourceKey>, Vec<ResourceKey>) {
        if changes != Changes::default() {
            self.changed = Some(now);
        }
        let remove = changes.remove.into_iter().map(|key| {
            let name = Name::Key(key);
            self.entries.remove(&name);
            name.to_key()
        });
        let remove = remove.collect();
        let add = changes.add.into_iter().map(|key| {
            let name = Name::Key(key);
            self.entries.entry(name.clone()).or_default();
            name.to_key()
        });
        (add.collect(), remove)
    }

    /// Notes that a version was sent, and whether it is in use.
    pub fn sent(&mut self, name: Name, version: u64, accepted: bool) {
        let entry = self.entries.entry(name).or_default();
        entry.sent = Some(version);
        if accepted {
            entry.held = Some(version);
        }
    }

    /// Keeps a Service until an address names it; `false` when there are too many.
    pub fn park(&mut self, key: ServiceKey, service: Option<Arc<Service>>) -> bool {
        if self.parked.len() >= MAX_PARKED && !self.parked.contains_key(&key) {
            return false;
        }
        self.parked.insert(key, Parked { service, old: false });
        true
    }

    /// Takes a parked Service out.
    pub fn take_parked(&mut self, key: &ServiceKey) -> Option<Option<Arc<Service>>> {
        self.parked.remove(key).map(|p| p.service)
    }

    /// Gives up Services that no address named between two heartbeats: to be unsubscribed.
    pub fn unpark(&mut self) -> Vec<ResourceKey> {
        let mut gone = Vec::new();
        self.parked.retain(|key, parked| {
            if parked.old {
                gone.push(Name::Key(Key::Service(key.clone())));
            }
            !std::mem::replace(&mut parked.old, true)
        });
        for name in &gone {
            self.entries.remove(name);
        }
        gone.iter().map(Name::to_key).collect()
    }

    /// Compares a heartbeat with what arrived.
    pub fn judge(&mut self, beat: &Heartbeat, now: Instant) -> Verdict {
        let differs = beat.digests.iter().any(|theirs| {
            // Types of a newer control plane are not ours to judge.
            ResourceType::try_from(theirs.r#type).is_ok_and(|kind| self.digest(kind) != *theirs)
        });
        if !differs {
            self.suspects = 0;
            return Verdict::Agrees;
        }
        self.suspects += 1;
        let settled = self.changed.is_none_or(|at| now.duration_since(at) >= SETTLING);
        if settled || self.suspects >= MOST_SUSPECTS { Verdict::Diverged } else { Verdict::Wait }
    }

    /// Digest over everything of a type that was sent and is still wanted, what is known to be absent included.
    #[must_use]
    pub fn digest(&self, kind: ResourceType) -> Digest {
        let sent = self.entries.iter().filter(|(name, _)| name.kind() == kind).filter_map(|(_, e)| e.sent);
        let (count, xor) = sent.fold((0, 0), |(count, xor), version| (count + 1, xor ^ version));
        Digest { r#type: kind.into(), count, xor }
    }
}

#[cfg(test)]
mod tests;
