//! A cluster with one Mesh and one member namespace, as the API server in memory has it, and what a replica remembers of its CA.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bowline_crds::Mesh;
use bowline_operator::{
    ca::Authorities,
    cluster::{cache::Cache, lookup::MembershipLookup, membership::Registry},
    reconcile::{
        mesh::reconcile::{ReconcileError, reconcile},
        webhook::{configuration, standing::Standing},
    },
    runtime::{config::Config, context::Ctx, readiness::Readiness, shutdown::Shutdown},
    serving::{
        control::{metrics::ControlMetrics, subscriptions::Subscriptions},
        inject::webhook::Webhook,
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
    pub(crate) webhook: Option<watch::Sender<Standing>>,
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

    pub(crate) fn ctx(&self) -> Ctx {
        let client = self.server.client();
        let ctx = Ctx {
            registry: Registry::new(Cache::of(self.all::<Mesh>("meshes", 6)), "bowline-system"),
            namespaces: Cache::of(self.all::<Namespace>("namespaces", 5)),
            pods: Cache::of(self.all::<Pod>("pods", 7)),
            authorities: self.memory.clone(),
            evidence: Reports::default(),
            tls: self.tls.clone(),
            control_ips: watch::Sender::new(Some(vec![[10, 96, 0, 7].into()])),
            metrics: Metrics::default(),
            webhook: self.webhook.clone().unwrap_or_default(),
            recorder: Recorder::new(client.clone(), Reporter { controller: "test".into(), instance: None }),
            serving: Arc::default(),
            readiness: Readiness::default(),
            leader: watch::channel(true).1,
            shutdown: Shutdown::new().1,
            client,
            config: Config {
                namespace: "bowline-system".into(),
                pod_name: "bowline-operator-0".into(),
                proxy_image: "proxy:1".into(),
                cluster_domain: "cluster.local".into(),
                admin_port: 8080,
                webhook_port: self.webhook_port,
                control_port: 15_010,
                log: "info".into(),
            },
        };
        if self.webhook.is_none() {
            ctx.webhook.send_replace(Standing::good(configuration::wanted(&ctx, "").as_ref()));
        }
        ctx
    }

    /// One reconcile with caches as fresh as can be; the memory sees the Secret afterwards.
    pub(crate) async fn round(&self) -> Result<(), ReconcileError> {
        let ended = self.round_of("default").await;
        self.look();
        ended
    }

    pub(crate) async fn round_of(&self, name: &str) -> Result<(), ReconcileError> {
        let ctx = self.ctx();
        let config_maps = Cache::of(self.all::<ConfigMap>("configmaps", 7));
        let mesh = ctx.registry.get(name).expect("Mesh");
        reconcile(&ctx, &config_maps, mesh, self.began + self.later).await.map(|_| ())
    }

    /// What the watch on the Secret would do.
    pub(crate) fn look(&self) {
        let secret: Option<Secret> = self.server.get(SECRET).map(|s| serde_json::from_value(s).unwrap());
        self.memory.observe(secret.as_ref());
        let ctx = self.ctx();
        let renewal = TlsRenewal {
            tls: self.tls.clone(),
            authorities: self.memory.clone(),
            secrets: Api::namespaced(ctx.client, "bowline-system"),
            registry: ctx.registry,
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
pub(crate) fn serve_webhook(ctx: &Ctx, listener: TcpListener) -> impl Future<Output = ()> + Send + use<> {
    let lookup = MembershipLookup::new(ctx.client.clone(), ctx.registry.clone(), ctx.namespaces.clone());
    let (image, certificate) = (ctx.config.proxy_image.clone(), Arc::clone(&ctx.serving));
    Webhook::new(lookup, image, certificate, &ctx.metrics, ctx.shutdown.clone()).run(listener)
}
