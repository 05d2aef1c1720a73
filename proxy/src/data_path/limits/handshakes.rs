//! How many handshakes a worker has in progress with peers who have not proved who they are.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use tokio::sync::Notify;

/// Handshakes under way with one worker; the oldest goes when there is one more.
const MAX_HANDSHAKES: usize = 256;

/// HandshakeLimit under way, oldest first.
#[derive(Default)]
pub(crate) struct HandshakeLimit {
    next: Cell<u64>,
    in_progress: RefCell<BTreeMap<u64, Rc<Notify>>>,
}

/// Takes a handshake out of the list when it is over.
struct InProgress<'a>(&'a HandshakeLimit, u64);

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.in_progress.borrow_mut().remove(&self.1);
    }
}

impl HandshakeLimit {
    /// Carries one out; nothing if it was given up for a newer one.
    pub(crate) async fn run<F: Future>(&self, handshake: F) -> Option<F::Output> {
        let (number, go) = (self.next.get(), Rc::<Notify>::default());
        self.next.set(number + 1);
        {
            let mut in_progress = self.in_progress.borrow_mut();
            if in_progress.len() >= MAX_HANDSHAKES
                && let Some((_, oldest)) = in_progress.pop_first()
            {
                oldest.notify_one();
            }
            in_progress.insert(number, Rc::clone(&go));
        }
        let _in_progress = InProgress(self, number);
        tokio::select! {
            biased;
            done = handshake => Some(done),
            () = go.notified() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_handshake_makes_room() {
        let handshakes = HandshakeLimit::default();
        let silent = || handshakes.run(std::future::pending::<()>());
        let mut first = std::pin::pin!(silent());
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        let mut others: Vec<_> = (1..MAX_HANDSHAKES).map(|_| Box::pin(silent())).collect();
        for other in &mut others {
            assert!(futures_util::poll!(other).is_pending());
        }
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert_eq!(handshakes.run(async { 7 }).await, Some(7));
        assert_eq!(first.await, None);
        assert_eq!(handshakes.in_progress.borrow().len(), MAX_HANDSHAKES - 1);
    }
}
