//! What every part of the operator is given.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Client, runtime::events::Recorder};
use tokio::{sync::watch, time::Instant};

use crate::{
    ca::Authorities,
    cluster::{cache::Cache, membership::Registry},
    reconcile::webhook::{serving::Serving, standing::Standing},
    runtime::config::Config,
    serving::{
        admin::Readiness,
        control::{Evidence, Tls},
    },
    telemetry::Metrics,
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
    /// Every pod, without what nobody here reads (see [`crate::cluster::cache::trim_pod`]).
    pub pods: Cache<Pod>,
    /// CA state of every Mesh.
    pub authorities: Authorities,
    /// What the proxies on this replica's streams said that they live with.
    pub evidence: Evidence,
    /// What the identity and control server proves and verifies with.
    pub tls: Tls,
    /// What the webhook's reconciler came to last, on the replica that leads.
    pub webhook: watch::Sender<Standing>,
    /// Addresses of the Service before the identity and control server; `None` until Services were listed.
    pub control_ips: watch::Sender<Option<Vec<IpAddr>>>,
    /// What is measured.
    pub metrics: Metrics,
    /// Writes events.
    pub recorder: Recorder,
    /// Serving certificate of the webhook, replaced whenever the Secret changes.
    pub serving: Arc<Serving>,
    /// What must be up before this replica is Ready.
    pub readiness: Readiness,
    /// Whether this replica leads.
    pub leader: watch::Receiver<bool>,
    /// Asks every part to end.
    pub shutdown: Shutdown,
}

/// The process was asked to end. It serves for a while longer: until everybody knows that it ends, some still come to it.
#[derive(Debug, Clone)]
pub struct Shutdown {
    asked: watch::Receiver<bool>,
    serves_on: Duration,
    /// When it was asked.
    at: Arc<OnceLock<Instant>>,
}

impl Shutdown {
    /// The handle that asks, and the one that is asked and serves no longer.
    #[must_use]
    pub fn new() -> (watch::Sender<bool>, Self) {
        Self::serving_on(Duration::ZERO)
    }

    /// As [`Shutdown::new`], of a process that serves on for that long.
    #[must_use]
    pub fn serving_on(serves_on: Duration) -> (watch::Sender<bool>, Self) {
        let (ask, asked) = watch::channel(false);
        (ask, Self { asked, serves_on, at: Arc::default() })
    }

    /// Ends when shutdown was requested (or the asking side is gone).
    pub async fn requested(&self) {
        let mut asked = self.asked.clone();
        // An error means that the sender is gone, which ends the process too.
        let _ = asked.wait_for(|asked| *asked).await;
        self.at.get_or_init(Instant::now);
    }

    /// Ends when nothing new is served any more.
    pub async fn over(&self) {
        self.after(1.0).await;
    }

    /// Ends at some moment before that, another for each that asks, and none too early to find another replica: whoever is served for
    /// long is to leave, and not with all others at once.
    pub async fn my_turn(&self) {
        self.after(f64::midpoint(1.0, rand::random())).await;
    }

    async fn after(&self, share: f64) {
        self.requested().await;
        let at = *self.at.get_or_init(Instant::now);
        tokio::time::sleep_until(at + self.serves_on.mul_f64(share)).await;
    }

    /// Whether shutdown was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.asked.borrow()
    }
}
