//! The operator's real parts: replicas that sign and serve, and the leader's reconciler.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use bowline_crds::Mesh;
use bowline_operator::{
    ca::{
        Authorities, MeshCa,
        issuance::{source::ExternalSources, state::CaState},
    },
    cluster::{
        cache::{self, Cache},
        control_ips::ControlIps,
        lookup::{MembershipLookup, PodLookup},
        membership::Registry,
    },
    reconcile::{mesh::reconcile::MeshReconciler, rotation::observe::Replicas, webhook::status::WebhookStatus},
    runtime::{
        config::{Config, OPERATOR_NAME},
        shutdown::Shutdown,
    },
    serving::{
        control::{metrics::ControlMetrics, service::ControlService, subscriptions::Subscriptions, watch::IndexWatch},
        grpc,
        identity::{
            authenticate::TokenReviews, authorize::Authorization, metrics::IdentityMetrics, rate_limit::RateLimits,
            service::IdentityService,
        },
        replicas::{client::ReplicaClient, local::LocalReplica, service::ReplicaService},
        reports::Reports,
        tls::{MeshTls, TlsRenewal},
    },
    telemetry::{MeshLabel, Metrics},
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::runtime::events::{Recorder, Reporter};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};

use crate::{
    api::Api,
    cluster::{self, MESH, MESH_PATH, SECRET_PATH, SYSTEM},
};

/// Longest pause of the leader.
const LOOK: Duration = Duration::from_millis(250);
/// How often a port is tried that every replica can have.
const PORT_ATTEMPTS: usize = 20;

/// Listeners of `replicas` replicas: 127.0.0.1, 127.0.0.2 and on, at one port, because replicas ask one another there.
///
/// # Errors
/// When no port is free at every address.
pub(super) async fn listeners(replicas: u8) -> Result<Vec<TcpListener>> {
    for _ in 0..PORT_ATTEMPTS {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot open a port")?;
        let port = first.local_addr().context("a port has no address")?.port();
        let mut all = vec![first];
        for n in 2..=replicas {
            match TcpListener::bind((Ipv4Addr::new(127, 0, 0, n), port)).await {
                Ok(listener) => all.push(listener),
                Err(_) => break,
            }
        }
        if all.len() == usize::from(replicas) {
            return Ok(all);
        }
    }
    bail!("no port is free at 127.0.0.1 to 127.0.0.{replicas}")
}

/// All replicas.
pub(super) struct Operator {
    /// The first one leads.
    replicas: Vec<Replica>,
    /// Set or dropped: all end.
    stop: watch::Sender<bool>,
    rounds: Arc<Rounds>,
}

/// What the leader did.
#[derive(Default)]
struct Rounds {
    count: AtomicU64,
    micros: AtomicU64,
    failed: AtomicU64,
    last_fault: Mutex<Option<String>>,
}

impl Operator {
    /// Serves on these listeners and begins to reconcile. Call it inside of the runtime that it shall use.
    ///
    /// # Errors
    /// When an object in `api` is malformed.
    pub(super) async fn start(api: &Api, listeners: Vec<TcpListener>) -> Result<Self> {
        let (stop, shutdown) = Shutdown::new();
        let mut pods = api.all::<Pod>("pods").context("a pod is malformed")?;
        pods.iter_mut().for_each(cache::trim_pod);
        let pods = Cache::of(pods);
        let mut replicas = Vec::new();
        for (n, listener) in listeners.into_iter().enumerate() {
            let address = listener.local_addr().context("a replica has no address")?;
            let (replica, index, server) = Replica::new(api, n, address, pods.clone(), shutdown.clone())?;
            fill(index).await;
            tokio::spawn(server.run(listener));
            replicas.push(replica);
        }
        let authorities: Vec<Authorities> = replicas.iter().map(|r| r.authorities.clone()).collect();
        let told = move |secret: &Value| {
            // What the operator wrote itself is one.
            let secret = serde_json::from_value::<Secret>(secret.clone()).ok();
            authorities.iter().for_each(|a| a.observe(secret.as_ref()));
        };
        api.watch(SECRET_PATH, Arc::new(told));
        let operator = Self { replicas, stop, rounds: Arc::default() };
        if let Some(leader) = operator.replicas.first() {
            tokio::spawn(lead(leader.reconciler(api)?, api.clone(), shutdown, Arc::clone(&operator.rounds)));
        }
        Ok(operator)
    }

    /// The Mesh's CA as the leader knows it, keys included; `None`: there is none yet.
    #[must_use]
    pub(super) fn state(&self) -> Option<Arc<CaState>> {
        self.replicas.first()?.authorities.state(MESH)
    }

    /// The part of it that signs.
    #[must_use]
    pub(super) fn ca(&self) -> Option<Arc<MeshCa>> {
        self.replicas.first()?.authorities.mesh(MESH)
    }

    /// Leaves that were signed for proxies, by all replicas.
    #[must_use]
    pub(super) fn signed(&self) -> u64 {
        let label = MeshLabel { mesh: MESH.into() };
        self.replicas.iter().map(|r| r.metrics.ca_leaves_signed.get_or_create(&label).get()).sum()
    }

    /// Reconciles, and the seconds that they took.
    pub(super) fn rounds(&self) -> (u64, f64) {
        let micros = Duration::from_micros(self.rounds.micros.load(Ordering::Relaxed));
        (self.rounds.count.load(Ordering::Relaxed), micros.as_secs_f64())
    }

    /// Reconciles that failed, and why the last one did.
    #[must_use]
    pub(super) fn faults(&self) -> (u64, Option<String>) {
        let last = self.rounds.last_fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.rounds.failed.load(Ordering::Relaxed), last)
    }

    /// Asks all replicas to end.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// As the watches of a replica would.
async fn fill(index: IndexWatch) {
    let (filled, first) = oneshot::channel();
    // It ends after the first time: nothing here changes.
    tokio::spawn(index.run(filled));
    let _ = first.await;
}

/// What the parts of one replica share.
struct Replica {
    client: kube::Client,
    secrets: kube::Api<Secret>,
    registry: Registry,
    namespaces: Cache<Namespace>,
    pods: Cache<Pod>,
    authorities: Authorities,
    tls: MeshTls,
    local: LocalReplica,
    metrics: Metrics,
    control_ips: watch::Receiver<Option<Vec<IpAddr>>>,
    config: Config,
}

impl Replica {
    /// With what fills its index, and its server.
    fn new(
        api: &Api,
        n: usize,
        address: SocketAddr,
        pods: Cache<Pod>,
        shutdown: Shutdown,
    ) -> Result<(Self, IndexWatch, grpc::Server)> {
        let client = api.client(SYSTEM);
        let config = Config {
            namespace: SYSTEM.into(),
            pod_name: cluster::replica(n),
            proxy_image: "proxy".into(),
            cluster_domain: "cluster.local".into(),
            admin_port: 0,
            webhook_port: 0,
            control_port: address.port(),
            log: "off".into(),
        };
        let meshes = Cache::of(api.all::<Mesh>("meshes").context("the Mesh is malformed")?);
        let registry = Registry::new(meshes, &config.namespace);
        let namespaces = Cache::of(api.all::<Namespace>("namespaces").context("a namespace is malformed")?);
        let secrets: kube::Api<Secret> = kube::Api::namespaced(client.clone(), SYSTEM);
        let (authorities, tls, reports) = (Authorities::new(), MeshTls::default(), Reports::default());
        let (metrics, control_metrics) = (Metrics::default(), ControlMetrics::default());
        control_metrics.register(&metrics);
        let subscriptions = Subscriptions::new(control_metrics.clone());
        let control_ips = watch::Sender::default();
        let index = IndexWatch {
            registry: registry.clone(),
            pods: pods.clone(),
            services: Cache::of([]),
            slices: Cache::of([]),
            subscriptions: subscriptions.clone(),
            control_ips: ControlIps::new(config.namespace.clone(), control_ips.clone()),
            shutdown: shutdown.clone(),
        };
        let pod_lookup = PodLookup::new(client.clone(), pods.clone());
        let memberships = MembershipLookup::new(client.clone(), registry.clone(), namespaces.clone());
        let local = LocalReplica::new(tls.clone(), reports.clone(), pods.clone());
        let server = grpc::Server {
            identity: IdentityService {
                authorization: Authorization::new(memberships, pod_lookup.clone()),
                authorities: authorities.clone(),
                secrets: secrets.clone(),
                reports: reports.clone(),
                metrics: IdentityMetrics::new(&metrics),
                rates: RateLimits::default(),
                tokens: TokenReviews::new(client.clone()),
            },
            refused: control_metrics.refused.clone(),
            control: ControlService::new(subscriptions.clone(), pod_lookup, reports, control_metrics, shutdown.clone()),
            replica: ReplicaService::new(local.clone(), authorities.clone(), SYSTEM.into()),
            tls: TlsRenewal {
                tls: tls.clone(),
                authorities: authorities.clone(),
                secrets: secrets.clone(),
                registry: registry.clone(),
                namespace: SYSTEM.into(),
                subscriptions,
            },
            shutdown,
        };
        let control_ips = control_ips.subscribe();
        let replica =
            Self { client, secrets, registry, namespaces, pods, authorities, tls, local, metrics, control_ips, config };
        Ok((replica, index, server))
    }

    /// What reconciles where this replica leads; its cache of ConfigMaps is renewed before each reconcile.
    fn reconciler(&self, api: &Api) -> Result<MeshReconciler> {
        let reporter = Reporter { controller: OPERATOR_NAME.into(), instance: Some(self.config.pod_name.clone()) };
        Ok(MeshReconciler {
            client: self.client.clone(),
            secrets: self.secrets.clone(),
            recorder: Recorder::new(self.client.clone(), reporter),
            metrics: self.metrics.clone(),
            registry: self.registry.clone(),
            namespaces: self.namespaces.clone(),
            pods: self.pods.clone(),
            config_maps: config_maps(api)?,
            authorities: self.authorities.clone(),
            sources: ExternalSources::new(self.client.clone(), SYSTEM, self.registry.clone()),
            replicas: Replicas {
                local: self.local.clone(),
                pod_name: self.config.pod_name.clone(),
                client: ReplicaClient::new(
                    self.authorities.clone(),
                    self.tls.clone(),
                    SYSTEM.into(),
                    self.config.control_port,
                ),
                pods: kube::Api::namespaced(self.client.clone(), SYSTEM),
                namespace: SYSTEM.into(),
            },
            control_ips: self.control_ips.clone(),
            webhook: watch::channel(WebhookStatus::default()).1,
            config: self.config.clone(),
        })
    }
}

fn config_maps(api: &Api) -> Result<Cache<ConfigMap>> {
    Ok(Cache::of(api.all::<ConfigMap>("configmaps").context("a ConfigMap is malformed")?))
}

/// Reconciles until shutdown.
async fn lead(mut reconciler: MeshReconciler, api: Api, shutdown: Shutdown, rounds: Arc<Rounds>) {
    loop {
        let began = Instant::now();
        let wait = once(&mut reconciler, &api).await.unwrap_or_else(|error| {
            rounds.failed.fetch_add(1, Ordering::Relaxed);
            *rounds.last_fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error:#}"));
            LOOK
        });
        rounds.count.fetch_add(1, Ordering::Relaxed);
        rounds.micros.fetch_add(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        tokio::select! {
            () = tokio::time::sleep(wait.min(LOOK)) => {}
            () = shutdown.requested() => return,
        }
    }
}

/// One reconcile with what the watches would have brought by now.
async fn once(reconciler: &mut MeshReconciler, api: &Api) -> Result<Duration> {
    let mesh: Mesh = api.get(MESH_PATH).context("the Mesh is malformed")?.context("there is no Mesh")?;
    reconciler.config_maps = config_maps(api)?;
    reconciler.reconcile(Arc::new(mesh), SystemTime::now()).await.context("the reconcile failed")
}
