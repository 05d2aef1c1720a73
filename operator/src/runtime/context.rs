//! What every part of the operator is given.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Client, runtime::events::Recorder};
use tokio::sync::watch;

use crate::{
    ca::Authorities,
    cluster::{cache::Cache, membership::Registry},
    reconcile::webhook::{serving::Serving, standing::Standing},
    runtime::{config::Config, readiness::Readiness, shutdown::Shutdown},
    serving::{reports::Reports, tls::MeshTls},
    telemetry::Metrics,
};

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
    pub evidence: Reports,
    /// What the identity and control server proves and verifies with.
    pub tls: MeshTls,
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
