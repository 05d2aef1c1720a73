//! Streams whose proxy has yet to say who it is: so many at once. Each may hold a message of the largest size, so where there would be more
//! the one that has waited for longest is given up: a proxy sends its Hello together with its request.

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
const MOST: usize = 64;

/// All such streams; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Hellos(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// The oldest first; dropped to give one up.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// Held while a Hello is awaited.
#[derive(Debug)]
struct Waiting {
    hellos: Hellos,
    id: u64,
    given_up: oneshot::Receiver<()>,
}

impl Hellos {
    /// The first message of a stream.
    pub(super) async fn hear(&self, inbound: &mut Streaming<ProxyMessage>) -> Result<Hello, Status> {
        let mut waiting = self.enter();
        let first = tokio::select! {
            first = inbound.message() => first?,
            () = waiting.given_up() => {
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

    fn enter(&self) -> Waiting {
        let (keep, given_up) = oneshot::channel();
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        table.waiting.insert(id, keep);
        if table.waiting.len() > MOST {
            table.waiting.pop_first();
        }
        drop(table);
        Waiting { hellos: self.clone(), id, given_up }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Ends when others need the room.
    async fn given_up(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.given_up).await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.hellos.table().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let hellos = Hellos::default();
        let mut all: Vec<Waiting> = (0..MOST + 2).map(|_| hellos.enter()).collect();
        let given_up: Vec<bool> = all.iter_mut().map(|w| w.given_up().now_or_never().is_some()).collect();
        assert_eq!(given_up, [vec![true; 2], vec![false; MOST]].concat());
        drop(all);
        assert!(hellos.table().waiting.is_empty());
    }
}
