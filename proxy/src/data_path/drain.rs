//! Ending in order: stop accepting, tell peers, let what is in flight finish; at the deadline, cut the rest off.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, watch};

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everything as usual.
    Serving,
    /// Nothing new is accepted; what is in flight finishes.
    Draining,
    /// Everything ends at once.
    Forced,
}

/// Tells everybody that the end has begun, and counts who is still there.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    open: AtomicUsize,
    gone: Notify,
}

/// One connection; it counts until it is dropped.
#[derive(Debug)]
pub struct Open(Arc<Drain>);

/// Sees the phase change.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<Phase>);

impl Drain {
    /// In [`Phase::Serving`].
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { phase: watch::Sender::new(Phase::Serving), open: AtomicUsize::new(0), gone: Notify::new() })
    }

    /// Moves on; never back.
    pub fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            if forward {
                *phase = to;
            }
            forward
        });
    }

    /// For a connection or listener to watch.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(self.phase.subscribe())
    }

    /// Counts a connection.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Connections that are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until no connection is open.
    pub async fn empty(&self) {
        loop {
            let gone = self.gone.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            gone.await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.gone.notify_waiters();
        }
    }
}

impl Watch {
    /// Now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until at least `phase` is reached.
    pub async fn reached(&mut self, phase: Phase) {
        if self.0.wait_for(|p| *p >= phase).await.is_err() {
            // The data plane is gone without having said so: there is nobody to end for.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_when_the_last_is_gone() {
        let drain = Drain::new();
        let one = drain.open();
        let mut watch = drain.watch();
        drain.advance(Phase::Forced);
        drain.advance(Phase::Draining);
        watch.reached(Phase::Draining).await;
        assert_eq!(watch.phase(), Phase::Forced);
        let waiting = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.empty().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(one);
        waiting.await.unwrap();
    }
}
