//! Streams whose proxy has yet to send its Hello: so many at once. Each may hold a message of the largest size, so where there would be
//! more the one that has waited for longest is evicted: a proxy sends its Hello together with its request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bowline_proxy::contract::proto::{Hello, ProxyMessage, proxy_message::Kind};
use tokio::sync::oneshot;
use tonic::{Status, Streaming};

/// How long a proxy may take to say who it is.
const DEADLINE: Duration = Duration::from_secs(10);
/// Most streams without a Hello.
const MAX_PENDING: usize = 64;

/// All such streams; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct PendingHellos(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// The oldest first; dropped to evict one.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// Held while a Hello is awaited.
#[derive(Debug)]
struct PendingHello {
    all: PendingHellos,
    id: u64,
    evicted: oneshot::Receiver<()>,
}

impl PendingHellos {
    /// The first message of a stream.
    pub(super) async fn receive(&self, inbound: &mut Streaming<ProxyMessage>) -> Result<Hello, Status> {
        let mut pending = self.enter();
        let first = tokio::select! {
            first = inbound.message() => first?,
            () = pending.evicted() => {
                let why = "many wait to say Hello, and this stream has waited for longest: try again";
                return Err(Status::unavailable(why));
            }
            () = tokio::time::sleep(DEADLINE) => {
                return Err(Status::deadline_exceeded("no Hello came within 10 seconds"));
            }
        };
        match first.and_then(|message| message.kind) {
            Some(Kind::Hello(hello)) => Ok(hello),
            _ => Err(Status::invalid_argument("the first message on a control stream must be Hello")),
        }
    }

    fn enter(&self) -> PendingHello {
        let (keep, evicted) = oneshot::channel();
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        table.waiting.insert(id, keep);
        if table.waiting.len() > MAX_PENDING {
            table.waiting.pop_first();
        }
        drop(table);
        PendingHello { all: self.clone(), id, evicted }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingHello {
    /// Ends when it is evicted, because others wait, too.
    async fn evicted(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.evicted).await;
    }
}

impl Drop for PendingHello {
    fn drop(&mut self) {
        self.all.table().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let hellos = PendingHellos::default();
        let mut all: Vec<PendingHello> = (0..MAX_PENDING + 2).map(|_| hellos.enter()).collect();
        let evicted: Vec<bool> = all.iter_mut().map(|w| w.evicted().now_or_never().is_some()).collect();
        assert_eq!(evicted, [vec![true; 2], vec![false; MAX_PENDING]].concat());
        drop(all);
        assert!(hellos.table().waiting.is_empty());
    }
}
