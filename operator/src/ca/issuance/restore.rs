//! Puts the last good state back when somebody empties or damages the Secret and the leader does not remember it: every other replica
//! waits a moment for the leader, then does it itself.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, ResourceExt};
use tokio::{sync::watch, time::sleep};

use super::{
    authorities::{Authorities, SecretEntry},
    store,
};
use crate::{
    cluster::{cache::Cache, deletion::staying, membership::Registry},
    runtime::{config::CA_SECRET, shutdown::TaskResult},
};

/// How long the leader has before the others help.
const GRACE: Duration = Duration::from_secs(5);

/// How long the leader waits for them before it makes a new root, even where somebody accepted that.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Puts states back, on every replica.
pub struct Restorer {
    /// What this process remembers.
    pub authorities: Authorities,
    /// Every Mesh: what belongs to none is not put back.
    pub registry: Registry,
    /// Every pod: they decide when a Mesh that is being deleted may go.
    pub pods: Cache<Pod>,
    /// Secrets of the operator's namespace.
    pub secrets: Api<Secret>,
    /// Whether this replica leads: then it is the reconcile that puts states back.
    pub leads: watch::Receiver<bool>,
}

impl Restorer {
    /// Runs for as long as it is polled.
    ///
    /// # Errors
    /// None; it ends only with the process.
    pub async fn run(self) -> TaskResult {
        self.registry.synced().await;
        let mut changes = self.authorities.subscribe();
        let mut meshes = self.registry.subscribe();
        loop {
            self.forget_gone();
            if !self.lost().is_empty() {
                sleep(GRACE).await;
                for mesh in self.lost() {
                    if !*self.leads.borrow() {
                        self.put_back(&mesh).await;
                    }
                }
            }
            tokio::select! {
                changed = changes.changed() => changed?,
                changed = meshes.changed() => changed?,
                () = sleep(GRACE), if !self.lost().is_empty() => {}
            }
        }
    }

    /// Meshes whose state this process remembers and the Secret does not hold, without those that are about to go.
    #[must_use]
    pub fn lost(&self) -> Vec<String> {
        let mut names = self.authorities.names();
        names.retain(|name| self.authorities.secret_entry(name) != SecretEntry::Good);
        if !names.is_empty() {
            let staying = staying(&self.registry, &self.pods);
            names.retain(|name| staying.iter().any(|m| m.name_any() == *name));
        }
        names
    }

    /// What is neither in the Secret nor a Mesh any more is wiped.
    fn forget_gone(&self) {
        for name in self.authorities.names() {
            if self.authorities.secret_entry(&name) == SecretEntry::Missing && self.registry.get(&name).is_none() {
                self.authorities.forget(&name);
            }
        }
    }

    async fn put_back(&self, mesh: &str) {
        let Some(state) = self.authorities.state(mesh) else { return };
        let outcome = async {
            let secret = self.secrets.get_opt(CA_SECRET).await?;
            if store::read(secret.as_ref(), mesh).0 == SecretEntry::Good {
                return Ok(());
            }
            store::write(&self.secrets, secret, mesh, Some(&state)).await
        };
        match outcome.await {
            Ok(()) => tracing::warn!(mesh, "Secret {CA_SECRET} had lost the CA's state; it was put back from memory"),
            Err(error) => tracing::warn!(mesh, %error, "the CA's state cannot be put back, it is tried again"),
        }
    }
}
