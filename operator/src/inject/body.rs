//! Bodies of reviews in memory: so many bytes at once, whoever sends them. Where there would be more, the body that has been there for
//! longest is given up: an API server sends a review within milliseconds, so it is not the API server's.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::oneshot;

/// A body that was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// One alone is too large.
    #[error("the review is larger than {limit} bytes: make the pod's specification smaller")]
    TooLarge {
        /// In bytes.
        limit: usize,
    },
    /// It had to make room.
    #[error("the reviews being read hold more than {limit} bytes in all, and this one is the oldest: try again")]
    GivenUp {
        /// In bytes.
        limit: usize,
    },
    /// The connection or the stream failed.
    #[error("the review breaks off: {0}")]
    Broken(#[from] axum::Error),
}

/// How many bytes all bodies may hold; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    /// Bytes of one body.
    one: usize,
    /// Bytes of all.
    all: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    used: usize,
    next: u64,
    /// The oldest first.
    bodies: BTreeMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    /// Dropped to give it up.
    _keep: oneshot::Sender<()>,
}

/// Room that a body takes, until this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    budget: Budget,
    id: u64,
    given_up: oneshot::Receiver<()>,
}

impl Budget {
    /// `one` is at most `all`; both in bytes.
    pub(super) fn new(one: usize, all: usize) -> Self {
        Self { one: one.min(all), all, table: Arc::default() }
    }

    /// Reads a body to its end. The room is to be kept as long as anything made of the body is.
    pub(super) async fn read(&self, mut body: Body) -> Result<(Bytes, Room), BodyError> {
        let mut room = self.enter();
        let mut read = BytesMut::new();
        let hint = body.size_hint();
        if hint.lower() > self.one as u64 {
            return Err(BodyError::TooLarge { limit: self.one });
        }
        loop {
            let frame = tokio::select! {
                biased;
                _ = &mut room.given_up => return Err(BodyError::GivenUp { limit: self.all }),
                frame = body.frame() => frame,
            };
            let Some(frame) = frame else { return Ok((read.freeze(), room)) };
            let Ok(data) = frame?.into_data() else { continue };
            if read.len() + data.len() > self.one {
                return Err(BodyError::TooLarge { limit: self.one });
            }
            self.take(room.id, data.len());
            read.extend_from_slice(&data);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> Room {
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        let (keep, given_up) = oneshot::channel();
        table.bodies.insert(id, Held { bytes: 0, _keep: keep });
        drop(table);
        Room { budget: self.clone(), id, given_up }
    }

    /// `bytes` more for a body; others make room, the oldest first.
    fn take(&self, id: u64, bytes: usize) {
        let mut table = self.table();
        // Given up a moment ago: its reader is about to notice.
        let Some(held) = table.bodies.get_mut(&id) else { return };
        held.bytes += bytes;
        table.used += bytes;
        while table.used > self.all {
            let Some(oldest) = table.bodies.iter().find(|(other, held)| **other != id && held.bytes > 0) else { break };
            let oldest = *oldest.0;
            table.remove(oldest);
        }
    }
}

impl Table {
    fn remove(&mut self, id: u64) {
        if let Some(held) = self.bodies.remove(&id) {
            self.used -= held.bytes;
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.table().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use proptest::prelude::*;

    use super::*;

    /// A body that has sent `bytes` and does not end.
    fn unfinished(bytes: usize) -> Body {
        let sent = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from(vec![b' '; bytes]))]);
        Body::from_stream(sent.chain(futures_util::stream::pending()))
    }

    /// Bytes and bodies.
    fn held(budget: &Budget) -> (usize, usize) {
        let table = budget.table();
        (table.used, table.bodies.len())
    }

    #[tokio::test]
    async fn a_body_is_read_and_its_room_given_back() {
        let budget = Budget::new(100, 300);
        let (read, room) = budget.read(Body::from("text")).await.unwrap();
        assert_eq!((&read[..], held(&budget)), (&b"text"[..], (4, 1)));
        drop(room);
        assert_eq!(held(&budget), (0, 0));
    }

    #[tokio::test]
    async fn one_that_is_too_large_is_refused_whether_it_says_so_or_not() {
        let budget = Budget::new(100, 300);
        for body in [Body::from(vec![b' '; 101]), unfinished(101)] {
            assert!(matches!(budget.read(body).await, Err(BodyError::TooLarge { limit: 100 })));
        }
        assert_eq!(held(&budget), (0, 0));
    }

    #[tokio::test]
    async fn the_oldest_make_room() {
        let budget = Budget::new(100, 300);
        let begin = || {
            let budget = budget.clone();
            tokio::spawn(async move { budget.read(unfinished(100)).await.map(|(read, _)| read.len()) })
        };
        let mut waiting = std::collections::VecDeque::new();
        for n in 1..=3 {
            waiting.push_back(begin());
            while budget.table().used < n * 100 {
                tokio::task::yield_now().await;
            }
        }
        for _ in 0..3 {
            // A body that is empty holds nothing that could be had.
            let _empty = budget.enter();
            waiting.push_back(begin());
            let oldest = waiting.pop_front().unwrap().await.unwrap();
            assert!(matches!(oldest, Err(BodyError::GivenUp { limit: 300 })), "{oldest:?}");
            let (read, _room) = budget.read(Body::from("text")).await.unwrap();
            assert_eq!(read.len(), 4);
            assert!(budget.table().used <= 300);
        }
    }

    proptest! {
        #[test]
        fn never_more_than_all(steps in prop::collection::vec((0_usize..6, 0_usize..60, any::<bool>()), 1..200)) {
            let budget = Budget::new(60, 200);
            let mut rooms: Vec<Option<Room>> = (0..6).map(|_| None).collect();
            for (which, bytes, ends) in steps {
                if ends {
                    rooms[which] = None;
                } else {
                    let room = rooms[which].get_or_insert_with(|| budget.enter());
                    let held = budget.table().bodies.get(&room.id).map(|held| held.bytes);
                    if held.is_some_and(|held| held + bytes <= 60) {
                        let id = room.id;
                        budget.take(id, bytes);
                        prop_assert!(budget.table().bodies.contains_key(&id), "the newcomer itself was given up");
                    }
                }
                let table = budget.table();
                prop_assert!(table.used <= 200);
                prop_assert_eq!(table.used, table.bodies.values().map(|held| held.bytes).sum::<usize>());
            }
            drop(rooms);
            prop_assert_eq!(budget.table().used, 0);
        }
    }
}
