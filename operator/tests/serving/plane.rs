//! A control plane on a loopback port.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bowline_operator::{
    ca::{Authorities, MeshCa},
    cluster::{cache::Cache, lookup::PodLookup},
    runtime::{config::Config, shutdown::Shutdown},
    serving::{
        control::{metrics::ControlMetrics, service::ControlService, subscriptions::Subscriptions},
        grpc,
        identity::{
            authenticate::TokenReviews, authorize::Authorization, metrics::IdentityMetrics, rate_limit::RateLimits,
            service::IdentityService,
        },
        replicas::{local::LocalReplica, service::ReplicaService},
        reports::Reports,
        tls::{MeshTls, TlsRenewal},
    },
    telemetry::Metrics,
};
use bowline_proxy::contract::spiffe::SpiffeId;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{self, MESH, SYSTEM};

pub(crate) struct Plane {
    pub(crate) pods: Cache<Pod>,
    pub(crate) reports: Reports,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) served: JoinHandle<()>,
    pub(crate) address: SocketAddr,
    authorities: Authorities,
    metrics: Metrics,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::serving_on(Duration::ZERO).await
    }

    /// One that serves on for that long when it is stopped.
    pub(crate) async fn serving_on(serves_on: Duration) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (stop, shutdown) = Shutdown::serving_on(serves_on);
        let (client, pods, authorities) = (cluster::client(), pods(), cluster::authorities());
        let (tls, reports, metrics) = (MeshTls::default(), Reports::default(), Metrics::default());
        let control_metrics = ControlMetrics::default();
        control_metrics.register(&metrics);
        let subscriptions = Subscriptions::new(control_metrics.clone());
        let pod_lookup = PodLookup::new(client.clone(), pods.clone());
        let local = LocalReplica::new(tls.clone(), reports.clone(), pods.clone());
        let server = grpc::Server {
            identity: IdentityService {
                authorization: Authorization::new(cluster::memberships(), pod_lookup.clone()),
                authorities: authorities.clone(),
                secrets: Api::namespaced(client.clone(), SYSTEM),
                reports: reports.clone(),
                metrics: IdentityMetrics::new(&metrics),
                rates: RateLimits::default(),
                tokens: TokenReviews::new(client.clone()),
            },
            refused: control_metrics.refused.clone(),
            control: ControlService::new(
                subscriptions.clone(),
                pod_lookup,
                reports.clone(),
                control_metrics,
                shutdown.clone(),
            ),
            replica: ReplicaService::new(local, authorities.clone(), SYSTEM.into()),
            tls: TlsRenewal {
                tls,
                authorities: authorities.clone(),
                secrets: Api::namespaced(client, SYSTEM),
                registry: cluster::registry(),
                namespace: SYSTEM.into(),
                subscriptions: subscriptions.clone(),
            },
            shutdown,
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(server.run(listener));
        Self { pods, reports, subscriptions, stop, served, address, authorities, metrics }
    }

    pub(crate) fn ca(&self) -> Arc<MeshCa> {
        self.authorities.mesh(MESH).unwrap()
    }

    pub(crate) fn metrics(&self) -> String {
        self.metrics.encode().unwrap()
    }

    /// A channel to the control plane of `mesh`, with a leaf for `identity`.
    pub(crate) async fn connect(&self, mesh: &str, identity: Option<&str>) -> Result<Channel, tonic::transport::Error> {
        let (tls, name) = self.client(mesh, identity);
        let address = self.address;
        let connector = tower::service_fn(move |_: http::Uri| {
            let (tls, name) = (tls.clone(), name.clone());
            async move {
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, TcpStream::connect(address).await?).await?))
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{}", Config::control_sni(mesh))).unwrap();
        endpoint.timeout(Duration::from_secs(60)).connect_with_connector(connector).await
    }

    /// What proves `identity` to the control plane of `mesh`.
    pub(crate) fn client(&self, mesh: &str, identity: Option<&str>) -> (TlsConnector, ServerName<'static>) {
        let mut roots = RootCertStore::empty();
        for der in &self.ca().bundle.roots_der {
            roots.add(CertificateDer::from(der.as_slice())).unwrap();
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match identity {
            Some(id) => {
                let (csr, key) = request(id);
                let id: SpiffeId = id.parse().unwrap();
                let leaf = self.ca().sign_leaf(&csr, &id, std::time::SystemTime::now()).unwrap();
                let chain = leaf.chain_der.into_iter().map(CertificateDer::from).collect();
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        (TlsConnector::from(Arc::new(config)), ServerName::try_from(Config::control_sni(mesh)).unwrap())
    }
}

/// A certificate signing request for a SPIFFE ID.
pub(crate) fn csr(id: &str) -> Vec<u8> {
    request(id).0
}

fn request(id: &str) -> (Vec<u8>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names.push(SanType::URI(id.try_into().unwrap()));
    (params.serialize_request(&key).unwrap().der().to_vec(), key)
}

fn pods() -> Cache<Pod> {
    Cache::of([
        pod("web-1", "uid-1", "10.244.0.1", "Running", true),
        pod("done", "uid-2", "10.244.0.2", "Succeeded", true),
        pod("bare", "uid-3", "10.244.0.3", "Running", false),
    ])
}

fn pod(name: &str, uid: &str, ip: &str, phase: &str, injected: bool) -> Pod {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "shop", "uid": uid, "labels": { "app": "web" } },
        "spec": { "serviceAccountName": "web", "containers": [{ "name": "web" }] },
        "status": { "phase": phase, "podIP": ip }
    });
    if injected {
        pod["metadata"]["annotations"] = json!({ "bowline.dev/injected": MESH });
        pod["spec"]["initContainers"] =
            json!([{ "name": "bowline-a" }, { "name": "bowline-b" }, { "name": "bowline-gate" }]);
    }
    serde_json::from_value(pod).unwrap()
}
