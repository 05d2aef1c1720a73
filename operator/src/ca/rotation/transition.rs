//! How a [`Write`] changes a [`Ledger`]. Pure: the operator and the model that checks it drive the same function.

use bowline_crds::mesh::{AuthorityPhase, RotationCause};

use super::{
    ledger::{Entry, Id, Ledger, MAX_AUTHORITIES, Revoked, Rotation},
    write::{NewAuthorities, Write},
};

impl Ledger {
    /// The ledger after a write at `now`; `made` is what [`Write::First`] and [`Write::Stage`] need.
    pub fn apply(&mut self, write: &Write, made: Option<NewAuthorities>, now: u64) {
        if write.is_step() {
            self.settled = None;
        }
        match write {
            Write::First | Write::Stage { .. } => self.add(write, made, now),
            Write::Distribute => self.distribute(now),
            Write::Activate { renew_within } => {
                self.activate(now);
                self.renew_within = *renew_within;
            }
            Write::DropIssuer { id } => self.drop_issuer(id, now),
            Write::DropRoot { id, revoke } => self.drop_root(id, *revoke, now),
            Write::Abort => {
                let bundled = self.roots.iter().any(|r| r.phase == AuthorityPhase::Distributed);
                self.roots.retain(|e| !e.is_new());
                self.issuers.retain(|e| !e.is_new());
                self.bundle_sequence += u64::from(bundled);
            }
            Write::RollBack { renew_within } => {
                self.roll_back(now);
                self.renew_within = *renew_within;
            }
            Write::Settle => self.settled = Some(now),
            Write::Finish => self.rotation = None,
            Write::Forget { id } => {
                self.revoked.retain(|r| r.id != *id);
                self.bundle_sequence += 1;
            }
            Write::LeafSeconds(seconds) => {
                self.leaf_seconds = *seconds;
                self.stretch();
            }
            Write::Sequence(sequence) => self.bundle_sequence = *sequence,
            Write::Handled(requests) => self.handled = requests.clone(),
        }
        self.revision += 1;
    }

    fn add(&mut self, write: &Write, made: Option<NewAuthorities>, now: u64) {
        let Some(made) = made else { return };
        let phase = match write {
            Write::Stage { kind, cause } => {
                self.rotation = Some(Rotation { kind: *kind, cause: *cause, began: now });
                AuthorityPhase::Staged
            }
            _ => AuthorityPhase::Active,
        };
        let placed = |entry: Entry| Entry { phase, since: now, ..entry };
        self.roots.extend(made.root.map(placed));
        self.issuers.push(placed(made.issuer));
        if phase == AuthorityPhase::Active {
            self.bundle_sequence += 1;
            for root in &mut self.roots {
                root.sequence = self.bundle_sequence;
            }
            self.stretch();
        }
    }

    /// The active issuing CA signs leaves of the present life from now on.
    fn stretch(&mut self) {
        for issuer in self.issuers.iter_mut().filter(|i| i.phase == AuthorityPhase::Active) {
            issuer.longest_leaf = issuer.longest_leaf.max(self.leaf_seconds);
        }
    }

    fn distribute(&mut self, now: u64) {
        let staged = |e: &&mut Entry| e.phase == AuthorityPhase::Staged;
        if self.roots.iter().any(|r| r.phase == AuthorityPhase::Staged) {
            self.bundle_sequence += 1;
        }
        for root in self.roots.iter_mut().filter(staged) {
            (root.phase, root.since, root.sequence) = (AuthorityPhase::Distributed, now, self.bundle_sequence);
        }
        for issuer in self.issuers.iter_mut().filter(staged) {
            (issuer.phase, issuer.since) = (AuthorityPhase::Distributed, now);
        }
    }

    fn activate(&mut self, now: u64) {
        let new_root = self.roots.iter().any(|r| r.phase == AuthorityPhase::Distributed);
        let step = |list: &mut Vec<Entry>| {
            for entry in list {
                let next = match entry.phase {
                    AuthorityPhase::Active => AuthorityPhase::Retiring,
                    AuthorityPhase::Distributed => AuthorityPhase::Active,
                    _ => continue,
                };
                (entry.phase, entry.since) = (next, now);
            }
        };
        if new_root {
            step(&mut self.roots);
        }
        step(&mut self.issuers);
        self.stretch();
        self.bundle_sequence += 1;
    }

    fn drop_issuer(&mut self, id: &str, now: u64) {
        self.issuers.retain(|i| i.id != id);
        let orphans: Vec<Id> =
            self.roots.iter().filter(|r| self.issuers_of(&r.id).next().is_none()).map(|r| r.id.clone()).collect();
        for root in self.roots.iter_mut().filter(|r| orphans.contains(&r.id)) {
            root.since = now;
        }
    }

    fn drop_root(&mut self, id: &str, revoke: bool, now: u64) {
        self.roots.retain(|r| r.id != id);
        if revoke && !self.revoked.iter().any(|r| r.id == id) {
            if self.revoked.len() == MAX_AUTHORITIES {
                self.revoked.remove(0);
            }
            self.revoked.push(Revoked { id: id.to_owned(), until: now + 2 * self.leaf_seconds });
        }
        self.bundle_sequence += 1;
    }

    fn roll_back(&mut self, now: u64) {
        let swap = |list: &mut Vec<Entry>| {
            let several = list.iter().any(|e| e.phase == AuthorityPhase::Retiring);
            for entry in list.iter_mut().filter(|_| several) {
                let next = match entry.phase {
                    AuthorityPhase::Active => AuthorityPhase::Retiring,
                    AuthorityPhase::Retiring => AuthorityPhase::Active,
                    _ => continue,
                };
                (entry.phase, entry.since) = (next, now);
            }
        };
        swap(&mut self.roots);
        swap(&mut self.issuers);
        self.stretch();
        self.bundle_sequence += 1;
        if let Some(rotation) = &mut self.rotation {
            (rotation.cause, rotation.began) = (RotationCause::RolledBack, now);
        }
    }
}
