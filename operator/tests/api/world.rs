//! A cluster with one Mesh and one member namespace, as the API server in memory has it, and what a replica remembers of its CA.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bowline_crds::Mesh;
use bowline_operator::{
    ca::{
        Authorities,
        issuance::{restore::Restorer, source::ExternalSources},
    },
    cluster::{cache::Cache, lookup::MembershipLookup, membership::Registry},
    reconcile::{
        mesh::{error::ReconcileError, reconcile::MeshReconciler},
        rotation::observe::Replicas,
        webhook::{reconcile::WebhookReconciler, status::WebhookStatus},
    },
    runtime::{config::Config, shutdown::Shutdown},
    serving::{
        certificate::ServingCertificate,
        control::{metrics::ControlMetrics, subscriptions::Subscriptions},
        inject::webhook::Webhook,
        replicas::{client::ReplicaClient, local::LocalReplica},
        reports::Reports,
        tls::{MeshTls, TlsRenewal},
    },
    telemetry::Metrics,
};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, Pod, Secret},
    serde::de::DeserializeOwned,
};
use kube::{
    Api,
    runtime::events::{Recorder, Reporter},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

use crate::server::Server;

pub(crate) const MESH: &str = "/apis/bowline.dev/v1alpha1/meshes/default";
pub(crate) const SECRET: &str = "/api/v1/namespaces/bowline-system/secrets/bowline-ca";
pub(crate) const BUNDLE: &str = "/api/v1/namespaces/shop/configmaps/bowline-trust-default";

/// Longer than the webhook's server needs to answer on any machine.
pub(crate) const ANSWERED: Duration = Duration::from_secs(30);

/// A cluster with one Mesh and one member namespace, and what a replica remembers of its CA.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) memory: Authorities,
    tls: MeshTls,
    /// What the webhook's reconciler says; `None`: that all is well.
    pub(crate) webhook: Option<watch::Sender<WebhookStatus>>,
    pub(crate) webhook_port: u16,
    /// When it began: its clock stands still, however long a test takes.
    began: SystemTime,
    /// How far its clock is ahead of that.
    pub(crate) later: Duration,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            server: Server::default(),
            memory: Authorities::new(),
            tls: MeshTls::default(),
            webhook: None,
            webhook_port: 9443,
            began: SystemTime::now(),
            later: Duration::ZERO,
        };
        world.server.put(MESH, mesh("default", json!({})));
        world.namespace("shop", json!({ "bowline.dev/mesh": "default" }));
        world.namespace("other", json!({}));
        world
    }

    /// One with everything in place.
    pub(crate) async fn settled() -> Self {
        let world = Self::new();
        for _ in 0..3 {
            world.round().await.expect("reconciled");
        }
        world.server.writes();
        world
    }

    pub(crate) fn namespace(&self, name: &str, labels: Value) {
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
        self.server.put(&format!("/api/v1/namespaces/{name}"), object);
    }

    pub(crate) fn meshed_pod(&self, namespace: &str, name: &str) {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "status": { "phase": "Running" },
            "spec": { "containers": [], "initContainers": [{ "name": "bowline-a" }, { "name": "bowline-b" }, { "name": "bowline-gate" }] },
            "metadata": { "name": name, "namespace": namespace, "annotations": { "bowline.dev/injected": "default" } }
        });
        self.server.put(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), object);
    }

    fn all<K: DeserializeOwned>(&self, part: &str, depth: usize) -> Vec<K> {
        let paths = self.server.paths().into_iter();
        let of_kind = paths.filter(|p| p.split('/').count() == depth && p.rsplit('/').nth(1) == Some(part));
        of_kind.map(|p| serde_json::from_value(self.server.get(&p).unwrap()).unwrap()).collect()
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            namespace: "bowline-system".into(),
            pod_name: "bowline-operator-0".into(),
            proxy_image: "proxy:1".into(),
            cluster_domain: "cluster.local".into(),
            admin_port: 8080,
            webhook_port: self.webhook_port,
            control_port: 15_010,
            log: "info".into(),
        }
    }

    fn registry(&self) -> Registry {
        Registry::new(Cache::of(self.all::<Mesh>("meshes", 6)), "bowline-system")
    }

    fn namespaces(&self) -> Cache<Namespace> {
        Cache::of(self.all::<Namespace>("namespaces", 5))
    }

    fn pods(&self) -> Cache<Pod> {
        Cache::of(self.all::<Pod>("pods", 7))
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.server.client(), "bowline-system")
    }

    /// Who puts back what the Secret has lost.
    pub(crate) fn restorer(&self) -> Restorer {
        Restorer {
            authorities: self.memory.clone(),
            registry: self.registry(),
            pods: self.pods(),
            secrets: self.secrets(),
            leads: watch::channel(true).1,
        }
    }

    /// One whose server has port `port` and proves itself with `serving`.
    pub(crate) fn webhook_reconciler(&self, port: u16, serving: &Arc<ServingCertificate>) -> WebhookReconciler {
        WebhookReconciler {
            client: self.server.client(),
            secrets: self.secrets(),
            registry: self.registry(),
            pods: self.pods(),
            serving: Arc::clone(serving),
            config: Config { webhook_port: port, ..self.config() },
            probe_timeout: ANSWERED,
        }
    }

    fn mesh_reconciler(&self) -> MeshReconciler {
        let (client, registry, pods) = (self.server.client(), self.registry(), self.pods());
        let webhook = self.webhook.as_ref().map_or_else(
            || {
                let good = self.webhook_reconciler(self.webhook_port, &Arc::default()).wanted("");
                watch::channel(WebhookStatus::good(good.as_ref())).1
            },
            watch::Sender::subscribe,
        );
        let config = self.config();
        let (namespace, port) = (config.namespace.clone(), config.control_port);
        MeshReconciler {
            secrets: self.secrets(),
            recorder: Recorder::new(client.clone(), Reporter { controller: "test".into(), instance: None }),
            metrics: Metrics::default(),
            namespaces: self.namespaces(),
            config_maps: Cache::of(self.all::<ConfigMap>("configmaps", 7)),
            authorities: self.memory.clone(),
            sources: ExternalSources::new(client.clone(), &namespace, registry.clone()),
            replicas: Replicas {
                local: LocalReplica::new(self.tls.clone(), Reports::default(), pods.clone()),
                pod_name: config.pod_name.clone(),
                client: ReplicaClient::new(self.memory.clone(), self.tls.clone(), namespace.clone(), port),
                pods: Api::namespaced(client.clone(), &namespace),
                namespace,
            },
            control_ips: watch::channel(Some(vec![[10, 96, 0, 7].into()])).1,
            webhook,
            client,
            registry,
            pods,
            config,
        }
    }

    /// One reconcile with caches as fresh as can be; the memory sees the Secret afterwards.
    pub(crate) async fn round(&self) -> Result<(), ReconcileError> {
        let ended = self.round_of("default").await;
        self.look();
        ended
    }

    pub(crate) async fn round_of(&self, name: &str) -> Result<(), ReconcileError> {
        let reconciler = self.mesh_reconciler();
        let mesh = reconciler.registry.get(name).expect("Mesh");
        reconciler.reconcile(mesh, self.began + self.later).await.map(|_| ())
    }

    /// What the watch on the Secret would do.
    pub(crate) fn look(&self) {
        let secret: Option<Secret> = self.server.get(SECRET).map(|s| serde_json::from_value(s).unwrap());
        self.memory.observe(secret.as_ref());
        let renewal = TlsRenewal {
            tls: self.tls.clone(),
            authorities: self.memory.clone(),
            secrets: self.secrets(),
            registry: self.registry(),
            namespace: "bowline-system".into(),
            subscriptions: Subscriptions::new(ControlMetrics::default()),
        };
        renewal.refresh(SystemTime::now());
    }

    pub(crate) fn condition(&self, mesh: &str, kind: &str) -> (String, String, String) {
        let mesh = self.server.get(&format!("/apis/bowline.dev/v1alpha1/meshes/{mesh}")).expect("Mesh");
        let conditions = mesh["status"]["conditions"].as_array().expect("conditions");
        let found = conditions.iter().find(|c| c["type"] == kind).expect("condition");
        let text = |field: &str| found[field].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    pub(crate) fn events(&self) -> String {
        self.all::<Value>("events", 8).iter().map(|e| format!("{} {}\n", e["reason"], e["note"])).collect()
    }

    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.server.get(path).expect("object");
        change(&mut object);
        self.server.put(path, object);
    }
}

pub(crate) fn mesh(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "bowline.dev/v1alpha1", "kind": "Mesh", "spec": spec,
        "metadata": { "name": name, "uid": format!("uid-{name}"), "generation": 1 }
    })
}

/// What a replica serves the API server with.
pub(crate) fn serve_webhook(
    world: &World,
    certificate: &Arc<ServingCertificate>,
    shutdown: Shutdown,
    listener: TcpListener,
) -> impl Future<Output = ()> + Send + use<> {
    let lookup = MembershipLookup::new(world.server.client(), world.registry(), world.namespaces());
    let (image, certificate) = (world.config().proxy_image, Arc::clone(certificate));
    Webhook::new(lookup, image, certificate, &Metrics::default(), shutdown).run(listener)
}
