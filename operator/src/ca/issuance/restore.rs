//! Puts the last good state back when somebody empties or damages the Secret and the leader does not remember it: every other replica
//! waits a moment for the leader, then does it itself.

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;
use tokio::time::sleep;

use super::{authorities::SecretEntry, store};
use crate::{
    reconcile::mesh::deletion::staying,
    runtime::{config::CA_SECRET, context::Ctx, shutdown::TaskResult},
};

/// How long the leader has before the others help.
const GRACE: Duration = Duration::from_secs(5);

/// How long the leader waits for them before it makes a new root, even where somebody accepted that.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Runs on every replica for as long as it is polled.
///
/// # Errors
/// None; it ends only with the process.
pub async fn run(ctx: Arc<Ctx>) -> TaskResult {
    ctx.registry.synced().await;
    let mut changes = ctx.authorities.subscribe();
    let mut meshes = ctx.registry.subscribe();
    loop {
        forget_gone(&ctx);
        if !lost(&ctx).is_empty() {
            sleep(GRACE).await;
            for mesh in lost(&ctx) {
                if !*ctx.leader.borrow() {
                    put_back(&ctx, &mesh).await;
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => changed?,
            changed = meshes.changed() => changed?,
            () = sleep(GRACE), if !lost(&ctx).is_empty() => {}
        }
    }
}

/// Meshes whose state this process remembers and the Secret does not hold, without those that are about to go.
#[must_use]
pub fn lost(ctx: &Ctx) -> Vec<String> {
    let mut names = ctx.authorities.names();
    names.retain(|name| ctx.authorities.secret_entry(name) != SecretEntry::Good);
    if !names.is_empty() {
        let staying = staying(ctx);
        names.retain(|name| staying.iter().any(|m| m.name_any() == *name));
    }
    names
}

/// What is neither in the Secret nor a Mesh any more is wiped.
fn forget_gone(ctx: &Ctx) {
    for name in ctx.authorities.names() {
        if ctx.authorities.secret_entry(&name) == SecretEntry::Missing && ctx.registry.get(&name).is_none() {
            ctx.authorities.forget(&name);
        }
    }
}

async fn put_back(ctx: &Ctx, mesh: &str) {
    let api = store::api(ctx);
    let Some(state) = ctx.authorities.state(mesh) else { return };
    let outcome = async {
        let secret = api.get_opt(CA_SECRET).await?;
        if store::read(secret.as_ref(), mesh).0 == SecretEntry::Good {
            return Ok(());
        }
        store::write(&api, secret, mesh, Some(&state)).await
    };
    match outcome.await {
        Ok(()) => tracing::warn!(mesh, "Secret {CA_SECRET} had lost the CA's state; it was put back from memory"),
        Err(error) => tracing::warn!(mesh, %error, "the CA's state cannot be put back, it is tried again"),
    }
}
