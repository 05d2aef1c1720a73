//! When Meshes are reconciled: all of them, a moment after something changed, however fast things change.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use bowline_crds::Mesh;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use kube::runtime::{
    controller::{Action, Config, applier},
    reflector::{ObjectRef, Store},
};

use super::error::ReconcileError;

/// How long changes are gathered, from the first of them: what comes together is looked at together, and nothing waits longer. A wait
/// that began anew with every change would have no end where pods come and go all the time.
const GATHERED: Duration = Duration::from_millis(300);
/// Meshes that are reconciled at the same time.
pub(super) const CONCURRENCY: u16 = 2;
/// Most changes that are taken together; there are fewer sources of them.
const MOST: usize = 64;

/// Reconciles every Mesh of `store` after `changes`, and each when its last reconcile asked for it, for as long as it is polled and
/// there are changes to come. `marking` is told when all of them are about to be.
pub(super) fn run<F: Future<Output = Result<Action, ReconcileError>> + Send + 'static>(
    store: Store<Mesh>,
    changes: impl Stream<Item = ()> + Send + Unpin + 'static,
    marking: impl Fn() + Send + 'static,
    once: impl Fn(Arc<Mesh>) -> F,
    failed: impl Fn(&Mesh, &ReconcileError) -> Action,
) -> impl Future<Output = ()> {
    let meshes = store.clone();
    let requests = gathered(changes).flat_map(move |()| {
        marking();
        stream::iter(meshes.state()).map(|mesh| Ok::<_, Infallible>(ObjectRef::from_obj(mesh.as_ref())))
    });
    // Failures were told where they happened, and a Mesh that is gone needs nothing.
    applier(
        move |mesh, _| Box::pin(once(mesh)),
        move |mesh: Arc<Mesh>, error, _| failed(&mesh, error),
        Arc::new(()),
        store,
        requests,
        Config::default().concurrency(CONCURRENCY),
    )
    .for_each(|_| std::future::ready(()))
}

/// One item for all changes within [`GATHERED`] of the first.
fn gathered(changes: impl Stream<Item = ()> + Send + Unpin) -> impl Stream<Item = ()> + Send {
    stream::unfold(changes, |mut changes| async move {
        changes.next().await?;
        tokio::time::sleep(GATHERED).await;
        for _ in 0..MOST {
            if !matches!(changes.next().now_or_never(), Some(Some(()))) {
                break;
            }
        }
        Some(((), changes))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::cluster::cache::Cache;

    /// Reconciles, the first included, while something changes `count` times, `apart` from each other, and shortly after.
    async fn reconciles(count: u32, apart: Duration) -> usize {
        let cache = Cache::of([Mesh::new("default", bowline_crds::MeshSpec::default())]);
        let (bump, changed) = tokio::sync::watch::channel(0_u64);
        let done = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&done);
        let once = move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok(Action::await_change()))
        };
        let changes = Box::pin(super::super::controller::changes(changed));
        let run = run(cache.store().clone(), changes, || {}, once, |_, _| Action::await_change());
        let changing = async {
            for _ in 0..count {
                tokio::time::sleep(apart).await;
                bump.send_modify(|n| *n += 1);
            }
            tokio::time::sleep(GATHERED * 2).await;
        };
        tokio::select! {
            () = run => panic!("nothing is reconciled any more"),
            () = changing => done.load(Ordering::SeqCst),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mesh_is_reconciled_however_fast_things_change() {
        for apart in [1, 30, 100] {
            let done = reconciles(30_000 / apart, Duration::from_millis(apart.into())).await;
            assert!((70..=102).contains(&done), "{done} reconciles in 30 seconds with a change every {apart} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_come_together_are_looked_at_together() {
        assert_eq!(reconciles(5, Duration::ZERO).await, 1);
        assert_eq!(reconciles(3, Duration::from_secs(5)).await, 4);
    }
}
