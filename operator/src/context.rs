//! What every part of the operator is given.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Client, runtime::events::Recorder};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use crate::{
    admin::Readiness,
    ca::Authorities,
    cache::Cache,
    config::Config,
    control::{Evidence, Tls},
    meshes::Registry,
    telemetry::Metrics,
    webhook::standing::Standing,
};

/// How a long-running part ends: well on shutdown, otherwise with the reason why the process must be restarted.
pub type TaskResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Shared by all parts, as an `Arc<Ctx>`.
pub struct Ctx {
    /// Talks to the API server.
    pub client: Client,
    /// Settings of this process.
    pub config: Config,
    /// Every Mesh, and which namespace belongs to which.
    pub registry: Registry,
    /// Every namespace.
    pub namespaces: Cache<Namespace>,
    /// Every pod, without what nobody here reads (see [`crate::cache::trim_pod`]).
    pub pods: Cache<Pod>,
    /// CA state of every Mesh.
    pub authorities: Authorities,
    /// What the proxies on this replica's streams said that they live with.
    pub evidence: Evidence,
    /// What the identity and control server proves and verifies with.
    pub tls: Tls,
    /// What the webhook's reconciler came to last, on the replica that leads.
    pub webhook: watch::Sender<Standing>,
    /// What is measured.
    pub metrics: Metrics,
    /// Writes events.
    pub recorder: Recorder,
    /// Serving certificate of the webhook, replaced whenever the Secret changes; `None` until it was loaded first.
    pub serving: Arc<ArcSwapOption<CertifiedKey>>,
    /// What must be up before this replica is Ready.
    pub readiness: Readiness,
    /// Whether this replica leads.
    pub leader: watch::Receiver<bool>,
    /// Asks every part to end.
    pub shutdown: Shutdown,
}

/// The process was asked to end.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// The handle that asks, and the one that is asked.
    #[must_use]
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (ask, asked) = watch::channel(false);
        (ask, Self(asked))
    }

    /// Ends when shutdown was requested (or the asking side is gone).
    pub async fn requested(&self) {
        let mut asked = self.0.clone();
        // An error means that the sender is gone, which ends the process too.
        let _ = asked.wait_for(|asked| *asked).await;
    }

    /// Whether shutdown was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }
}
