//! Connection limits: so many in all, so many of one address, and so many that are idle. At a limit the connection that has been idle
//! for longest is evicted, and a new one is refused only where none is idle: no peer can lock another out by holding what it does not
//! use.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::AbortHandle;

/// Connection limits of a server.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Most connections.
    pub all: usize,
    /// Most connections of one address. Behind one address there may be all pods of a node.
    pub address: usize,
    /// Most connections that are idle, or have not proved who is at their other end.
    pub idle: usize,
}

/// Why a new connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitReached {
    /// Every connection is in use.
    All,
    /// Every connection of its address is.
    Address,
}

impl LimitReached {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::All => "too-many",
            Self::Address => "too-many-of-address",
        }
    }
}

#[derive(Debug)]
struct Connection {
    address: IpAddr,
    /// Uses at this moment.
    uses: usize,
    /// Its key in [`Table::idle`] while there are none.
    since: u64,
    /// Ends it.
    abort: Option<AbortHandle>,
}

#[derive(Debug, Default)]
struct Table {
    connections: HashMap<u64, Connection>,
    addresses: HashMap<IpAddr, usize>,
    /// Idle connections in the order in which they became so.
    idle: BTreeMap<u64, u64>,
    /// Counts up, for names and for order.
    next: u64,
}

/// All connections of a server; clones share everything.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    limits: ConnectionLimits,
    table: Arc<Mutex<Table>>,
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self { limits, table: Arc::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit for a new connection, and how many others were evicted for it.
    pub(super) fn take(&self, address: IpAddr) -> Result<(ConnectionPermit, usize), LimitReached> {
        let mut table = self.table();
        let mut ended = 0;
        if table.addresses.get(&address).is_some_and(|n| *n >= self.limits.address) {
            let of_address = |c: &Connection| c.address == address;
            ended += table.evict(of_address).then_some(1).ok_or(LimitReached::Address)?;
        }
        if table.connections.len() >= self.limits.all {
            ended += table.evict(|_| true).then_some(1).ok_or(LimitReached::All)?;
        }
        if table.idle.len() >= self.limits.idle && table.evict(|_| true) {
            ended += 1;
        }
        let (id, since) = (table.count(), table.count());
        table.connections.insert(id, Connection { address, uses: 0, since, abort: None });
        table.idle.insert(since, id);
        *table.addresses.entry(address).or_default() += 1;
        drop(table);
        Ok((ConnectionPermit(Arc::new(Held { connections: self.clone(), id, used: AtomicBool::new(false) })), ended))
    }
}

impl Table {
    fn count(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Ends the connection that has been idle for longest, among those that are asked for.
    fn evict(&mut self, among: impl Fn(&Connection) -> bool) -> bool {
        let found = self.idle.values().find(|id| self.connections.get(id).is_some_and(&among)).copied();
        let Some(abort) = found.map(|id| self.remove(id)) else { return false };
        if let Some(abort) = abort {
            abort.abort();
        }
        true
    }

    fn remove(&mut self, id: u64) -> Option<AbortHandle> {
        let connection = self.connections.remove(&id)?;
        self.idle.remove(&connection.since);
        if let Some(count) = self.addresses.get_mut(&connection.address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&connection.address);
            }
        }
        connection.abort
    }
}

/// One connection's permit, given back when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct ConnectionPermit(Arc<Held>);

#[derive(Debug)]
struct Held {
    connections: Connections,
    id: u64,
    used: AtomicBool,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.connections.table().remove(self.id);
    }
}

impl ConnectionPermit {
    /// The task that is to end when this connection is evicted.
    pub(super) fn belongs_to(&self, task: AbortHandle) {
        match self.0.connections.table().connections.get_mut(&self.0.id) {
            Some(connection) => connection.abort = Some(task),
            None => task.abort(),
        }
    }

    /// The connection is in use, and is not evicted, for as long as this is kept.
    #[must_use]
    pub fn in_use(&self) -> InUse {
        self.0.used.store(true, Ordering::Relaxed);
        let mut table = self.0.connections.table();
        let Table { connections, idle, .. } = &mut *table;
        if let Some(connection) = connections.get_mut(&self.0.id) {
            connection.uses += 1;
            idle.remove(&connection.since);
        }
        drop(table);
        InUse(self.clone())
    }

    /// Ends after this time if the connection was not in use until then.
    pub async fn unused(&self, within: Duration) {
        tokio::time::sleep(within).await;
        if self.0.used.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

/// See [`ConnectionPermit::in_use`].
#[derive(Debug)]
pub struct InUse(ConnectionPermit);

impl Drop for InUse {
    fn drop(&mut self) {
        let Held { connections, id, .. } = &*self.0.0;
        let mut table = connections.table();
        let since = table.count();
        let Table { connections, idle, .. } = &mut *table;
        let Some(connection) = connections.get_mut(id) else { return };
        connection.uses -= 1;
        if connection.uses == 0 {
            connection.since = since;
            idle.insert(since, *id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits { all: 6, address: 3, idle: 4 };

    fn from(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn ids(connections: &Connections) -> Vec<u64> {
        let mut ids: Vec<u64> = connections.table().connections.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn the_longest_idle_of_an_address_makes_room_for_its_next() {
        let connections = Connections::new(LIMITS);
        let other = connections.take(from(2)).unwrap().0;
        let mut held: Vec<ConnectionPermit> = (0..3).map(|_| connections.take(from(1)).unwrap().0).collect();
        let busy = held[0].in_use();
        let (newcomer, ended) = connections.take(from(1)).unwrap();
        assert_eq!(ended, 1);
        assert_eq!(ids(&connections), [other.0.id, held[0].0.id, held[2].0.id, newcomer.0.id]);
        // What was idle becomes the latest when it was used.
        drop(busy);
        drop(connections.take(from(1)).unwrap());
        assert_eq!(ids(&connections), [other.0.id, held[0].0.id, newcomer.0.id]);
        held.clear();
        drop((other, newcomer));
        assert!(
            ids(&connections).is_empty()
                && connections.table().addresses.is_empty()
                && connections.table().idle.is_empty()
        );
    }

    #[test]
    fn only_where_nobody_idles_a_newcomer_is_refused() {
        let connections = Connections::new(LIMITS);
        let of = |address| connections.take(from(address)).unwrap().0;
        let held = [1, 1, 1, 2, 2].map(|address| of(address).in_use());
        assert_eq!(connections.take(from(1)).unwrap_err(), LimitReached::Address);
        let idle = connections.take(from(3)).unwrap().0;
        assert_eq!(connections.take(from(4)).map(|(_, ended)| ended).unwrap(), 1);
        let last = connections.take(from(4)).unwrap().0;
        let _busy = last.in_use();
        assert_eq!(connections.take(from(5)).unwrap_err(), LimitReached::All);
        drop(held);
        assert_eq!(connections.take(from(5)).unwrap().1, 0);
        drop(idle);
        assert_eq!(ids(&connections), [last.0.id]);
    }

    #[test]
    fn the_idle_have_a_bound_of_their_own() {
        let connections = Connections::new(LIMITS);
        let held: Vec<ConnectionPermit> = (1..=4).map(|n| connections.take(from(n)).unwrap().0).collect();
        assert_eq!(connections.take(from(5)).unwrap().1, 1);
        assert!(!ids(&connections).contains(&held[0].0.id));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_used_may_idle() {
        let connections = Connections::new(LIMITS);
        let [(never, _), (once, _)] = [1, 2].map(|n| connections.take(from(n)).unwrap());
        drop(once.in_use());
        let within = Duration::from_secs(10);
        let ends =
            async |permit: &ConnectionPermit| tokio::time::timeout(within * 2, permit.unused(within)).await.is_ok();
        assert_eq!((ends(&never).await, ends(&once).await), (true, false));
    }

    #[tokio::test]
    async fn whoever_makes_room_is_ended() {
        let connections = Connections::new(ConnectionLimits { all: 1, address: 1, idle: 1 });
        let (permit, _) = connections.take(from(1)).unwrap();
        let task = tokio::spawn(std::future::pending::<()>());
        permit.belongs_to(task.abort_handle());
        let _next = connections.take(from(2)).unwrap();
        assert!(task.await.unwrap_err().is_cancelled());
        // Too late to be told which task it is.
        let late = tokio::spawn(std::future::pending::<()>());
        permit.belongs_to(late.abort_handle());
        assert!(late.await.unwrap_err().is_cancelled());
    }
}
