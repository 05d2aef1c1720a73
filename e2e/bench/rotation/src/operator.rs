//! The operator's real parts: replicas that sign and serve, and the leader's reconciler.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use bowline_crds::Mesh;
use bowline_operator::{
    ca::{Authorities, MeshCa, issuance::state::CaState},
    cluster::{
        cache::{self, Cache},
        membership::Registry,
    },
    reconcile::mesh::reconcile::reconcile,
    runtime::{
        config::{Config, OPERATOR_NAME},
        context::{Ctx, Shutdown},
    },
    serving::{
        admin::Readiness,
        control::{Evidence, Tls, measure::Measures, server, subscribers::Hub, watch as index},
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

use super::{
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
    replicas: Vec<Arc<Ctx>>,
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
        let mut serving = Vec::new();
        for (n, listener) in listeners.into_iter().enumerate() {
            let address = listener.local_addr().context("a replica has no address")?;
            let ctx = Arc::new(context(api, n, address, pods.clone(), shutdown.clone())?);
            let measures = Measures::default();
            measures.register(&ctx.metrics);
            let hub = Hub::new(measures.clone());
            fill(&ctx, &hub).await;
            replicas.push(Arc::clone(&ctx));
            serving.push((ctx, hub, measures, listener));
        }
        let authorities: Vec<Authorities> = replicas.iter().map(|ctx| ctx.authorities.clone()).collect();
        let told = move |secret: &Value| {
            // What the operator wrote itself is one.
            let secret = serde_json::from_value::<Secret>(secret.clone()).ok();
            authorities.iter().for_each(|a| a.observe(secret.as_ref()));
        };
        api.watch(SECRET_PATH, Arc::new(told));
        let operator = Self { replicas, stop, rounds: Arc::default() };
        for (ctx, hub, measures, listener) in serving {
            tokio::spawn(server::run(ctx, hub, measures, listener));
        }
        if let Some(leader) = operator.replicas.first() {
            tokio::spawn(lead(Arc::clone(leader), api.clone(), Arc::clone(&operator.rounds)));
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
        self.replicas.iter().map(|ctx| ctx.metrics.ca_leaves_signed.get_or_create(&label).get()).sum()
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
async fn fill(ctx: &Arc<Ctx>, hub: &Hub) {
    let (filled, first) = oneshot::channel();
    let (services, slices) = (Cache::of([]), Cache::of([]));
    // It ends after the first time: nothing here changes.
    tokio::spawn(index::run(Arc::clone(ctx), services, slices, hub.clone(), filled));
    let _ = first.await;
}

fn context(api: &Api, n: usize, address: SocketAddr, pods: Cache<Pod>, shutdown: Shutdown) -> Result<Ctx> {
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
    let reporter = Reporter { controller: OPERATOR_NAME.into(), instance: Some(config.pod_name.clone()) };
    let meshes = Cache::of(api.all::<Mesh>("meshes").context("the Mesh is malformed")?);
    Ok(Ctx {
        registry: Registry::new(meshes, &config.namespace),
        namespaces: Cache::of(api.all::<Namespace>("namespaces").context("a namespace is malformed")?),
        pods,
        authorities: Authorities::new(),
        evidence: Evidence::default(),
        tls: Tls::default(),
        control_ips: watch::Sender::default(),
        metrics: Metrics::default(),
        webhook: watch::Sender::default(),
        recorder: Recorder::new(client.clone(), reporter),
        serving: Arc::default(),
        readiness: Readiness::default(),
        leader: watch::channel(n == 0).1,
        shutdown,
        client,
        config,
    })
}

/// Reconciles until shutdown.
async fn lead(ctx: Arc<Ctx>, api: Api, rounds: Arc<Rounds>) {
    loop {
        let began = Instant::now();
        let wait = once(&ctx, &api).await.unwrap_or_else(|error| {
            rounds.failed.fetch_add(1, Ordering::Relaxed);
            *rounds.last_fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error:#}"));
            LOOK
        });
        rounds.count.fetch_add(1, Ordering::Relaxed);
        rounds.micros.fetch_add(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        tokio::select! {
            () = tokio::time::sleep(wait.min(LOOK)) => {}
            () = ctx.shutdown.requested() => return,
        }
    }
}

/// One reconcile with what the watches would have brought by now.
async fn once(ctx: &Ctx, api: &Api) -> Result<Duration> {
    let mesh: Mesh = api.get(MESH_PATH).context("the Mesh is malformed")?.context("there is no Mesh")?;
    let config_maps = Cache::of(api.all::<ConfigMap>("configmaps").context("a ConfigMap is malformed")?);
    reconcile(ctx, &config_maps, Arc::new(mesh), SystemTime::now()).await.context("the reconcile failed")
}
