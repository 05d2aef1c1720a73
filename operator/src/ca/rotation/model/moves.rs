//! What can happen next, and what the world is afterwards.

use stateright::{Model, Property};

use super::{Action, LEAF, OneProxy, Setting, World, margin, skew};

impl Model for Setting {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.start()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (n, replica) in world.replicas.iter().enumerate() {
            if !replica.up {
                actions.push(Action::Start(n));
                continue;
            }
            actions.extend([Action::Look(n), Action::Land(n)]);
            actions.extend([Action::Publish(n), Action::Follow(n), Action::Crash(n)]);
        }
        for (n, proxy) in world.proxies.iter().enumerate() {
            if !proxy.there {
                actions.push(Action::Join(n));
                continue;
            }
            for replica in 0..world.replicas.len() {
                actions.extend([Action::Ask(n, replica), Action::Connect(n, replica)]);
            }
            actions.extend([Action::Install(n), Action::Take(n)]);
            actions.extend([Action::Disconnect(n), Action::Restart(n), Action::Leave(n)]);
        }
        actions.extend([Action::Sleep, Action::Abort]);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.step(self, &action)?;
        // Proxies are all alike.
        next.proxies.sort_unstable();
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("everybody trusts everybody", |_, world: &World| world.broken().is_none()),
            Property::sometimes("a rotation ends", |_, world: &World| {
                world.ledger.is_steady() && world.ledger.issuers[0].id != "i0.r0"
            }),
        ]
    }
}

impl World {
    /// `None`: it cannot happen now.
    pub(super) fn step(&mut self, setting: &Setting, action: &Action) -> Option<()> {
        match *action {
            Action::Look(n) => {
                let writes = self.decide(setting, n);
                if self.replicas[n].pending.is_some() {
                    return None;
                }
                self.replicas[n].pending = (!writes.is_empty()).then_some((writes, self.now + skew(n)));
            }
            Action::Land(n) => {
                // Pods are looked up once more before an irreversible write: here nobody hides.
                let (writes, at) = self.replicas[n].pending.take()?;
                debug_assert!(writes.iter().filter(|w| w.is_irreversible()).count() <= 1);
                self.write(&writes, at);
                // Whatever else was decided on top of the version before is refused.
                self.replicas.iter_mut().for_each(|r| r.pending = None);
            }
            Action::Publish(n) => {
                // Even a former leader may, and go back to what it knows.
                self.published = self.replicas[n].bundle;
            }
            Action::Follow(n) => self.follow(n),
            Action::Crash(n) => {
                spend(&mut self.budget.crashes)?;
                let replica = &mut self.replicas[n];
                (replica.up, replica.pending) = (false, None);
                for proxy in self.proxies.iter_mut().filter(|p| p.stream == Some(n)) {
                    proxy.stream = None;
                }
            }
            Action::Start(n) => {
                self.replicas[n].up = true;
                self.replicas[n].issued = 0;
                self.follow(n);
            }
            Action::Sleep => {
                let next = self.next_moment(setting)?;
                spend(&mut self.budget.sleeps)?;
                self.now = next;
            }
            Action::Abort => {
                spend(&mut self.budget.aborts)?;
                self.abort = true;
            }
            Action::Ask(n, _)
            | Action::Install(n)
            | Action::Connect(n, _)
            | Action::Take(n)
            | Action::Disconnect(n)
            | Action::Restart(n)
            | Action::Join(n)
            | Action::Leave(n) => self.proxy_step(n, action)?,
        }
        Some(())
    }

    fn proxy_step(&mut self, n: usize, action: &Action) -> Option<()> {
        match *action {
            Action::Ask(_, replica) => {
                let server = self.replicas.get(replica).filter(|r| r.up)?;
                let proxy = &self.proxies[n];
                let wanted = self.ledger.active_issuer()?.id.clone();
                let has = proxy.leaf.as_ref().is_some_and(|(issuer, until)| *issuer == wanted && self.now < *until);
                // Whoever has what is wanted does not ask, and nobody asks twice at a time.
                if has || proxy.answer.is_some() || !self.trusts(proxy.bundle, &server.issuer) {
                    return None;
                }
                // The state is confirmed to be in force before anything is signed.
                let until = self.now + skew(replica) + LEAF;
                self.proxies[n].answer = Some((wanted, until, self.ledger.bundle_sequence));
            }
            Action::Install(_) => {
                let (issuer, until, bundle) = self.proxies[n].answer.take()?;
                // An answer that is older than the bundle is thrown away.
                if bundle >= self.proxies[n].bundle {
                    (self.proxies[n].leaf, self.proxies[n].bundle) = (Some((issuer, until)), bundle);
                }
            }
            Action::Connect(_, replica) => {
                let server = self.replicas.get(replica).filter(|r| r.up)?;
                let (issuer, until) = self.proxies[n].leaf.as_ref()?;
                let valid = self.now < *until && self.trusts(server.bundle, issuer);
                if self.proxies[n].stream.is_some() || !valid || !self.trusts(self.proxies[n].bundle, &server.issuer) {
                    return None;
                }
                self.proxies[n].stream = Some(replica);
            }
            Action::Take(_) => {
                let version = self.replicas[self.proxies[n].stream?].bundle;
                self.raise_bundle(n, version);
            }
            Action::Disconnect(_) => {
                self.proxies[n].stream?;
                spend(&mut self.budget.disconnects)?;
                self.proxies[n].stream = None;
            }
            Action::Restart(_) => {
                spend(&mut self.budget.restarts)?;
                self.proxies[n] = OneProxy { there: true, bundle: self.published, ..OneProxy::default() };
            }
            Action::Join(_) => {
                spend(&mut self.budget.joins)?;
                self.proxies[n] = OneProxy { there: true, bundle: self.published, ..OneProxy::default() };
            }
            Action::Leave(_) => {
                spend(&mut self.budget.leaves)?;
                self.proxies[n] = OneProxy::default();
            }
            _ => return None,
        }
        Some(())
    }

    fn raise_bundle(&mut self, n: usize, offered: u64) {
        let proxy = &mut self.proxies[n];
        proxy.bundle = proxy.bundle.max(offered);
    }

    /// A replica confirms the ledger before it makes a leaf of its own.
    fn follow(&mut self, n: usize) {
        let issuer = self.ledger.serving_issuer(self.now + skew(n)).unwrap().id.clone();
        let replica = &mut self.replicas[n];
        (replica.bundle, replica.current) = (self.ledger.bundle_sequence, true);
        if replica.issuer != issuer || replica.issued + LEAF / 2 <= self.now {
            (replica.issuer, replica.issued) = (issuer, self.now);
        }
    }

    /// The next time at which anything changes by itself: a leaf ends, or somebody silent is waited for no more.
    fn next_moment(&self, setting: &Setting) -> Option<u64> {
        let leaves = self.proxies.iter().filter_map(|p| p.leaf.as_ref()).map(|(_, until)| *until);
        let served = self.replicas.iter().filter(|r| r.up).map(|r| r.issued + LEAF);
        let released = self.ledger.settled.map(|s| s + LEAF + margin(LEAF));
        let released = released.into_iter().flat_map(|at| [at - skew(1), at]);
        let timed = self.ledger.settled.zip(setting.guards.timer).map(|(s, timer)| s + timer);
        leaves.chain(served).chain(released).chain(timed).filter(|at| *at > self.now).min()
    }
}

fn spend(budget: &mut u8) -> Option<()> {
    *budget = budget.checked_sub(1)?;
    Some(())
}
