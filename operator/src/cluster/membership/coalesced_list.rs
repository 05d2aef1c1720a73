//! Meshes straight from the API server, for where memory may be behind: one list at a time, shared by all who asked before it began, so
//! that however many ask, the API server is asked by one.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bowline_crds::Mesh;
use tokio::sync::Mutex;

/// What a list came to, for all who share it.
pub(super) type ListResult = Result<Arc<[Arc<Mesh>]>, Arc<kube::Error>>;

#[derive(Debug, Default)]
pub(super) struct CoalescedList {
    /// How many lists have begun.
    begun: AtomicU64,
    /// The last one that ended, and its number. Held while a list goes on.
    last: Mutex<Option<(u64, ListResult)>>,
}

impl CoalescedList {
    /// What a list came to that began after this was called.
    pub(super) async fn get<F>(&self, list: impl FnOnce() -> F) -> ListResult
    where
        F: Future<Output = Result<Vec<Mesh>, kube::Error>>,
    {
        let begun = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some((_, listed)) = last.as_ref().filter(|(number, _)| *number > begun) {
            return listed.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let listed = list().await;
        let listed = listed.map(|meshes| meshes.into_iter().map(Arc::new).collect()).map_err(Arc::new);
        *last = Some((number, ListResult::clone(&listed)));
        listed
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn all_who_wait_share_the_next_list() {
        let (listed, may_end, lists) = (CoalescedList::default(), Semaphore::new(0), AtomicU64::new(0));
        let get = || {
            listed.get(|| async {
                lists.fetch_add(1, Ordering::SeqCst);
                may_end.acquire().await.unwrap().forget();
                Ok(Vec::new())
            })
        };
        let mut first = Box::pin(get());
        assert!((&mut first).now_or_never().is_none());
        // These may have seen what the first list cannot show.
        let mut others = Box::pin(join_all((0..100).map(|_| get())));
        assert!((&mut others).now_or_never().is_none());
        assert_eq!(lists.load(Ordering::SeqCst), 1);
        may_end.add_permits(2);
        let (first, others) = tokio::join!(first, others);
        assert!(first.is_ok() && others.iter().all(Result::is_ok));
        assert_eq!(lists.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn who_gives_up_holds_up_nobody() {
        let listed = CoalescedList::default();
        assert!(listed.get(std::future::pending).now_or_never().is_none());
        let listed = listed.get(|| async { Ok(Vec::new()) }).now_or_never();
        assert!(listed.is_some_and(|listed| listed.is_ok()));
    }
}
