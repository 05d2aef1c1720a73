//! Puts the parts together and runs them until SIGTERM.

use std::{fmt::Debug, net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Namespace, Pod, Secret},
    serde::de::DeserializeOwned,
};
use kube::{
    Api, Client, Resource,
    runtime::{
        events::{Recorder, Reporter},
        watcher,
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::{
    ca::{
        Authorities,
        issuance::{restore::Restorer, source::ExternalSources, store},
    },
    cluster::{
        cache::{self, Cache},
        control_ips::ControlIps,
        lookup::{MembershipLookup, PodLookup},
        membership::Registry,
    },
    leader::{self, Elector},
    reconcile::{
        mesh::{self, reconcile::MeshReconciler},
        repair,
        rotation::observe::Replicas,
        webhook::{self, reconcile::WebhookReconciler, status::WebhookStatus},
    },
    runtime::{
        config::{Config, OPERATOR_NAME},
        readiness::{Readiness, ReadinessCheck},
        shutdown::{Shutdown, TaskResult},
    },
    serving::{
        admin::Admin,
        certificate::{self, ServingCertificate},
        control::{metrics::ControlMetrics, service::ControlService, subscriptions::Subscriptions, watch::IndexWatch},
        grpc,
        identity::{
            authenticate::TokenReviews, authorize::Authorization, metrics::IdentityMetrics, rate_limit::RateLimits,
            service::IdentityService,
        },
        inject::webhook::Webhook,
        replicas::{client::ReplicaClient, local::LocalReplica, service::ReplicaService},
        reports::Reports,
        tls::{MeshTls, TlsRenewal},
    },
    telemetry::Metrics,
};

/// How long new connections and reviews are still served after the end was requested: as long as it takes until every node and every API
/// server has noticed that this replica is not Ready any more.
const SERVES_ON: Duration = Duration::from_secs(8);
/// How long parts may take to end; below the Deployment's grace period of 30 seconds.
const END_DEADLINE: Duration = Duration::from_secs(25);

/// Runs the operator until SIGTERM or SIGINT, or until a part fails.
///
/// # Errors
/// The failure that ended it.
pub async fn run(config: Config) -> TaskResult {
    // Only fails when one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = crate::runtime::client::connect().await?;
    let (ask, shutdown) = Shutdown::serving_on(SERVES_ON);
    tracing::info!(version = bowline_proxy::contract::bootstrap::VERSION, pod = config.pod_name, "operator starts");

    // What the parts share, each what it uses. What is spawned in the background ends with the process; it is aborted when dropped.
    let mut background = JoinSet::new();
    let (metrics, readiness) = (Metrics::default(), Readiness::default());
    let meshes = cached(&client, cache::trim_meta, readiness.check("meshes"), &mut background);
    let namespaces = cached::<Namespace>(&client, cache::trim_meta, readiness.check("namespaces"), &mut background);
    let pods = cached(&client, cache::trim_pod, readiness.check("pods"), &mut background);
    let services = cached(&client, cache::trim_meta, readiness.check("services"), &mut background);
    let slices = cached(&client, cache::trim_meta, readiness.check("endpointslices"), &mut background);
    let registry = Registry::new(meshes, &config.namespace);
    let memberships = MembershipLookup::new(client.clone(), registry.clone(), namespaces.clone());
    let pod_lookup = PodLookup::new(client.clone(), pods.clone());
    let (authorities, tls, reports) = (Authorities::new(), MeshTls::default(), Reports::default());
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &config.namespace);
    let serving: Arc<ServingCertificate> = Arc::default();
    let control_ips = watch::Sender::default();
    let (leads, leader) = watch::channel(false);

    // Configuration for proxies.
    let control_metrics = ControlMetrics::default();
    control_metrics.register(&metrics);
    let subscriptions = Subscriptions::new(control_metrics.clone());
    let index = IndexWatch {
        registry: registry.clone(),
        pods: pods.clone(),
        services,
        slices,
        subscriptions: subscriptions.clone(),
        control_ips: ControlIps::new(config.namespace.clone(), control_ips.clone()),
        shutdown: shutdown.clone(),
    };
    let (filled, is_filled) = oneshot::channel();
    background.spawn(index.run(filled));

    // The identity and control server.
    let identity = IdentityService {
        authorization: Authorization::new(memberships.clone(), pod_lookup.clone()),
        authorities: authorities.clone(),
        secrets: secrets.clone(),
        reports: reports.clone(),
        metrics: IdentityMetrics::new(&metrics),
        rates: RateLimits::default(),
        tokens: TokenReviews::new(client.clone()),
    };
    let refused = control_metrics.refused.clone();
    let local = LocalReplica::new(tls.clone(), reports.clone(), pods.clone());
    let grpc = grpc::Server {
        identity,
        control: ControlService::new(
            subscriptions.clone(),
            pod_lookup,
            reports.clone(),
            control_metrics,
            shutdown.clone(),
        ),
        replica: ReplicaService::new(local.clone(), authorities.clone(), config.namespace.clone()),
        tls: TlsRenewal {
            tls: tls.clone(),
            authorities: authorities.clone(),
            secrets: secrets.clone(),
            registry: registry.clone(),
            namespace: config.namespace.clone(),
            subscriptions,
        },
        refused,
        shutdown: shutdown.clone(),
    };
    let webhook = Webhook::new(memberships, config.proxy_image.clone(), serving.clone(), &metrics, shutdown.clone());
    let admin = Admin { metrics: metrics.clone(), readiness: readiness.clone(), shutdown: shutdown.clone() };
    let elector = Elector::new(client.clone(), &config.namespace, &config.pod_name);

    let reporter = Reporter { controller: OPERATOR_NAME.into(), instance: Some(config.pod_name.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let (admin_port, webhook_port, control_port) = (config.admin_port, config.webhook_port, config.control_port);
    let control_ready = readiness.check("control");

    // What only the leader does.
    let leading = Leading {
        namespaces,
        authorities,
        tls,
        local,
        control_ips: control_ips.subscribe(),
        recorder,
        serving,
        metrics: metrics.clone(),
        registry,
        pods,
        secrets,
        shutdown: shutdown.clone(),
        client,
        config,
    };
    leading.watch_secrets(&readiness, leader, &mut background);
    let leading = Arc::new(leading);

    // End by themselves once they are asked to.
    let mut parts = JoinSet::new();
    parts.spawn(admin.serve(admin_port));
    parts.spawn(webhook.serve(webhook_port));
    parts.spawn(grpc.serve(control_port, is_filled, control_ready));
    parts.spawn(leader::run(elector, leads, metrics, shutdown, move || Arc::clone(&leading).run()));

    until_ended(&ask, parts, background).await
}

/// Runs until a signal or the end of a part, then lets the parts end.
async fn until_ended(
    ask: &watch::Sender<bool>,
    mut parts: JoinSet<TaskResult>,
    mut background: JoinSet<TaskResult>,
) -> TaskResult {
    let outcome = tokio::select! {
        signal = terminated() => signal,
        Some(ended) = parts.join_next() => flat(ended).and(Err("a part of the operator ended by itself".into())),
        Some(ended) = background.join_next() => flat(ended).and(Err("a watch of the operator ended by itself".into())),
    };
    ask.send_replace(true);
    let ended = tokio::time::timeout(END_DEADLINE, async { while parts.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!("not everything ended within {END_DEADLINE:?}");
    }
    outcome
}

/// A cache of all objects of a kind, which is filled in the background.
fn cached<K>(client: &Client, trim: fn(&mut K), ready: ReadinessCheck, background: &mut JoinSet<TaskResult>) -> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (cache, fill) = Cache::new(Api::all(client.clone()), watcher::Config::default(), trim, ready);
    background.spawn(fill);
    cache
}

fn flat(ended: Result<TaskResult, tokio::task::JoinError>) -> TaskResult {
    ended.unwrap_or_else(|panic| Err(panic.into()))
}

/// What the reconcilers are made of, anew whenever this replica begins to lead.
struct Leading {
    client: Client,
    secrets: Api<Secret>,
    recorder: Recorder,
    metrics: Metrics,
    registry: Registry,
    namespaces: Cache<Namespace>,
    pods: Cache<Pod>,
    authorities: Authorities,
    tls: MeshTls,
    local: LocalReplica,
    serving: Arc<ServingCertificate>,
    control_ips: watch::Receiver<Option<Vec<IpAddr>>>,
    shutdown: Shutdown,
    config: Config,
}

impl Leading {
    /// Keeps what every replica knows of the CA's state and of the webhook's certificate, and puts back the former when the Secret lost it.
    fn watch_secrets(&self, readiness: &Readiness, leads: watch::Receiver<bool>, background: &mut JoinSet<TaskResult>) {
        let (secrets, metrics) = (&self.secrets, &self.metrics);
        let ready = readiness.check("authorities");
        background.spawn(store::watch(secrets.clone(), self.authorities.clone(), metrics.clone(), ready));
        let ready = readiness.check("webhook certificate");
        background.spawn(certificate::watch(secrets.clone(), self.serving.clone(), metrics.clone(), ready));
        let restorer = Restorer {
            authorities: self.authorities.clone(),
            registry: self.registry.clone(),
            pods: self.pods.clone(),
            secrets: secrets.clone(),
            leads,
        };
        background.spawn(restorer.run());
    }

    /// What only the leader does.
    async fn run(self: Arc<Self>) -> TaskResult {
        let status = watch::Sender::default();
        let (mesh, fill) = self.mesh_reconciler(&status);
        let webhook = webhook::controller::run(self.webhook_reconciler(), self.metrics.clone(), status);
        let repair = repair::run(
            self.registry.clone(),
            self.namespaces.clone(),
            self.pods.clone(),
            self.recorder.clone(),
            self.shutdown.clone(),
        );
        tokio::try_join!(mesh::controller::run(mesh, fill), webhook, repair).map(|_| ())
    }

    fn webhook_reconciler(&self) -> WebhookReconciler {
        WebhookReconciler {
            client: self.client.clone(),
            secrets: self.secrets.clone(),
            registry: self.registry.clone(),
            pods: self.pods.clone(),
            serving: self.serving.clone(),
            config: self.config.clone(),
            probe_timeout: webhook::controller::PROBE_TIMEOUT,
        }
    }

    fn mesh_reconciler(
        &self,
        webhook: &watch::Sender<WebhookStatus>,
    ) -> (MeshReconciler, impl Future<Output = TaskResult> + Send + use<>) {
        let namespace = &self.config.namespace;
        let replicas = Replicas {
            local: self.local.clone(),
            pod_name: self.config.pod_name.clone(),
            client: ReplicaClient::new(
                self.authorities.clone(),
                self.tls.clone(),
                namespace.clone(),
                self.config.control_port,
            ),
            pods: Api::namespaced(self.client.clone(), namespace),
            namespace: namespace.clone(),
        };
        let (config_maps, fill) = mesh::controller::config_maps(&self.client);
        let reconciler = MeshReconciler {
            client: self.client.clone(),
            secrets: self.secrets.clone(),
            recorder: self.recorder.clone(),
            metrics: self.metrics.clone(),
            registry: self.registry.clone(),
            namespaces: self.namespaces.clone(),
            pods: self.pods.clone(),
            config_maps,
            authorities: self.authorities.clone(),
            sources: ExternalSources::new(self.client.clone(), namespace, self.registry.clone()),
            replicas,
            control_ips: self.control_ips.clone(),
            webhook: webhook.subscribe(),
            config: self.config.clone(),
        };
        (reconciler, fill)
    }
}

/// Ends on SIGTERM or SIGINT.
async fn terminated() -> TaskResult {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("asked to end");
    Ok(())
}
