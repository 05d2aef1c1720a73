//! Bodies of reviews in memory: so many bytes at once, whoever sends them. Where there would be more, the body that has been read for
//! longest is evicted: an API server sends a review within milliseconds, so it is not the API server's. One that is complete stays,
//! because its memory does: what does not fit beside such is not read.

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
    /// It was evicted for another.
    #[error("the reviews being read hold more than {limit} bytes in all, and this one is the oldest: try again")]
    Evicted {
        /// In bytes.
        limit: usize,
    },
    /// None can be evicted for it.
    #[error("the reviews being decided leave no room for this one below {limit} bytes in all: try again")]
    Full {
        /// In bytes.
        limit: usize,
    },
    /// The connection or the stream failed.
    #[error("the review breaks off: {0}")]
    Broken(#[from] axum::Error),
}

/// How many bytes all bodies may hold; clones share it.
#[derive(Debug, Clone)]
pub(super) struct BodyLimits {
    /// Bytes of one body.
    one: usize,
    /// Bytes of all.
    all: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    /// Bytes of all.
    used: usize,
    /// Of these, bytes of those that are complete.
    complete: usize,
    next: u64,
    /// The oldest first.
    bodies: BTreeMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    /// Dropped to evict it; `None`: it is complete.
    keep: Option<oneshot::Sender<()>>,
}

/// Permits a body to be in memory, until this is dropped.
#[derive(Debug)]
pub(super) struct BodyPermit {
    limits: BodyLimits,
    id: u64,
    evicted: oneshot::Receiver<()>,
}

impl BodyLimits {
    /// `one` is at most `all`; both in bytes.
    pub(super) fn new(one: usize, all: usize) -> Self {
        Self { one: one.min(all), all, table: Arc::default() }
    }

    /// Reads a body to its end. The permit is to be kept as long as anything made of the body is.
    pub(super) async fn read(&self, mut body: Body) -> Result<(Bytes, BodyPermit), BodyError> {
        let mut permit = self.enter();
        let mut read = BytesMut::new();
        let hint = body.size_hint();
        if hint.lower() > self.one as u64 {
            return Err(BodyError::TooLarge { limit: self.one });
        }
        loop {
            let frame = tokio::select! {
                biased;
                _ = &mut permit.evicted => return Err(BodyError::Evicted { limit: self.all }),
                frame = body.frame() => frame,
            };
            let Some(frame) = frame else {
                self.complete(permit.id)?;
                return Ok((read.freeze(), permit));
            };
            let Ok(data) = frame?.into_data() else { continue };
            if read.len() + data.len() > self.one {
                return Err(BodyError::TooLarge { limit: self.one });
            }
            self.take(permit.id, data.len())?;
            read.extend_from_slice(&data);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> BodyPermit {
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        let (keep, evicted) = oneshot::channel();
        table.bodies.insert(id, Held { bytes: 0, keep: Some(keep) });
        drop(table);
        BodyPermit { limits: self.clone(), id, evicted }
    }

    /// `bytes` more for a body; others that are being read are evicted, the oldest first.
    fn take(&self, id: u64, bytes: usize) -> Result<(), BodyError> {
        let mut table = self.table();
        // Evicted a moment ago, and its reader has yet to notice.
        let Some(held) = table.bodies.get(&id) else { return Err(BodyError::Evicted { limit: self.all }) };
        if table.complete + held.bytes + bytes > self.all {
            return Err(BodyError::Full { limit: self.all });
        }
        while table.used + bytes > self.all {
            let gives = |(other, held): &(&u64, &Held)| **other != id && held.keep.is_some() && held.bytes > 0;
            // Without the complete ones and this one, all that is used is others' that are being read.
            let Some(oldest) = table.bodies.iter().find(gives).map(|(oldest, _)| *oldest) else { break };
            table.remove(oldest);
        }
        table.used += bytes;
        if let Some(held) = table.bodies.get_mut(&id) {
            held.bytes += bytes;
        }
        Ok(())
    }

    /// All of a body is read: it stays for as long as its permit.
    fn complete(&self, id: u64) -> Result<(), BodyError> {
        let table = &mut *self.table();
        let held = table.bodies.get_mut(&id).ok_or(BodyError::Evicted { limit: self.all })?;
        if held.keep.take().is_some() {
            table.complete += held.bytes;
        }
        Ok(())
    }
}

impl Table {
    fn remove(&mut self, id: u64) {
        if let Some(held) = self.bodies.remove(&id) {
            self.used -= held.bytes;
            if held.keep.is_none() {
                self.complete -= held.bytes;
            }
        }
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.limits.table().remove(self.id);
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
    fn held(limits: &BodyLimits) -> (usize, usize) {
        let table = limits.table();
        (table.used, table.bodies.len())
    }

    #[tokio::test]
    async fn a_body_is_read_and_its_room_given_back() {
        let limits = BodyLimits::new(100, 300);
        let (read, permit) = limits.read(Body::from("text")).await.unwrap();
        assert_eq!((&read[..], held(&limits)), (&b"text"[..], (4, 1)));
        drop(permit);
        assert_eq!(held(&limits), (0, 0));
    }

    #[tokio::test]
    async fn one_that_is_too_large_is_refused_whether_it_says_so_or_not() {
        let limits = BodyLimits::new(100, 300);
        for body in [Body::from(vec![b' '; 101]), unfinished(101)] {
            assert!(matches!(limits.read(body).await, Err(BodyError::TooLarge { limit: 100 })));
        }
        assert_eq!(held(&limits), (0, 0));
    }

    #[tokio::test]
    async fn the_oldest_make_room() {
        let limits = BodyLimits::new(100, 300);
        let begin = || {
            let limits = limits.clone();
            tokio::spawn(async move { limits.read(unfinished(100)).await.map(|(read, _)| read.len()) })
        };
        let mut waiting = std::collections::VecDeque::new();
        for n in 1..=3 {
            waiting.push_back(begin());
            while limits.table().used < n * 100 {
                tokio::task::yield_now().await;
            }
        }
        for _ in 0..3 {
            // A body that is empty holds nothing that could be had.
            let _empty = limits.enter();
            waiting.push_back(begin());
            let oldest = waiting.pop_front().unwrap().await.unwrap();
            assert!(matches!(oldest, Err(BodyError::Evicted { limit: 300 })), "{oldest:?}");
            let (read, _permit) = limits.read(Body::from("text")).await.unwrap();
            assert_eq!(read.len(), 4);
            assert!(limits.table().used <= 300);
        }
    }

    #[tokio::test]
    async fn what_is_being_decided_makes_no_room() {
        let limits = BodyLimits::new(100, 300);
        let mut decided = Vec::new();
        for _ in 0..2 {
            decided.push(limits.read(Body::from(vec![b' '; 100])).await.unwrap());
        }
        let reading = tokio::spawn({
            let limits = limits.clone();
            async move { limits.read(unfinished(50)).await.map(|_| ()) }
        });
        while limits.table().used < 250 {
            tokio::task::yield_now().await;
        }
        // The one that is being read is evicted, the two others are not.
        decided.push(limits.read(Body::from(vec![b' '; 100])).await.unwrap());
        let evicted = tokio::time::timeout(std::time::Duration::from_secs(30), reading).await;
        assert!(matches!(evicted, Ok(Ok(Err(BodyError::Evicted { limit: 300 })))), "{evicted:?}");
        assert!(matches!(limits.read(Body::from("text")).await, Err(BodyError::Full { limit: 300 })));
        assert_eq!(held(&limits), (300, 3));
        decided.pop();
        assert!(limits.read(Body::from("text")).await.is_ok());
        drop(decided);
        assert_eq!((held(&limits), limits.table().complete), ((0, 0), 0));
    }

    /// What happens to one of six bodies.
    #[derive(Debug, Clone)]
    enum Step {
        Reads(usize),
        Completes,
        Ends,
    }

    /// A body's permit, the bytes in it, and whether they are all.
    type Kept = Option<(BodyPermit, usize, bool)>;

    /// Bytes in memory. What was evicted while it was being read is freed by its reader, who is told at once.
    fn in_memory(permits: &mut [Kept]) -> usize {
        permits
            .iter_mut()
            .flatten()
            .map(|(permit, bytes, complete)| {
                let freed = !*complete && permit.evicted.try_recv() == Err(oneshot::error::TryRecvError::Closed);
                if freed { 0 } else { *bytes }
            })
            .sum()
    }

    fn any_step() -> impl Strategy<Value = (usize, Step)> {
        let step = prop_oneof![
            5 => (0_usize..60).prop_map(Step::Reads),
            1 => Just(Step::Completes),
            1 => Just(Step::Ends),
        ];
        (0_usize..6, step)
    }

    proptest! {
        #[test]
        fn never_more_than_all(steps in prop::collection::vec(any_step(), 1..200)) {
            let limits = BodyLimits::new(60, 200);
            let mut permits: Vec<Kept> = (0..6).map(|_| None).collect();
            for (which, step) in steps {
                match step {
                    Step::Ends => permits[which] = None,
                    Step::Completes => {
                        if let Some((permit, _, complete)) = &mut permits[which] {
                            *complete |= limits.complete(permit.id).is_ok();
                        }
                    }
                    Step::Reads(more) => {
                        let (permit, bytes, complete) = permits[which].get_or_insert_with(|| (limits.enter(), 0, false));
                        if !*complete && *bytes + more <= 60 && limits.take(permit.id, more).is_ok() {
                            *bytes += more;
                        }
                    }
                }
                let in_memory = in_memory(&mut permits);
                let table = limits.table();
                prop_assert!(in_memory <= 200, "{} bytes are in memory", in_memory);
                prop_assert_eq!(table.used, in_memory);
                let complete = table.bodies.values().filter(|held| held.keep.is_none()).map(|held| held.bytes);
                prop_assert_eq!(table.complete, complete.sum::<usize>());
            }
            drop(permits);
            let table = limits.table();
            prop_assert_eq!((table.used, table.complete), (0, 0));
        }
    }
}
