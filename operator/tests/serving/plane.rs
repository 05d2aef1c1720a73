//! A control plane on a loopback port: one Mesh, a few pods, and an API server that is a function.

// Every test program uses its part of it.
#![allow(dead_code)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bowline_crds::{Mesh, MeshSpec};
use bowline_operator::{
    ca::{
        Authorities, MeshCa,
        decide::{Offer, Policy},
        issue,
        ledger::{Requests, Write},
    },
    cluster::{cache::Cache, membership::Registry},
    runtime::{config::Config, context::Ctx, readiness::Readiness, shutdown::Shutdown},
    serving::control::{Evidence, Tls, measure::Measures, server, subscribers::Hub},
    telemetry::Metrics,
};
use bowline_proxy::contract::spiffe::SpiffeId;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Client,
    client::Body,
    runtime::events::{Recorder, Reporter},
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

pub(crate) const MESH: &str = "default";
pub(crate) const ID: &str = "spiffe://cluster.local/ns/shop/sa/web";

pub(crate) struct Plane {
    pub(crate) ctx: Arc<Ctx>,
    pub(crate) hub: Hub,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) served: JoinHandle<()>,
    pub(crate) address: SocketAddr,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::serving_on(Duration::ZERO).await
    }

    /// One that serves on for that long when it is stopped.
    pub(crate) async fn serving_on(serves_on: Duration) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (stop, shutdown) = Shutdown::serving_on(serves_on);
        let ctx = Arc::new(context(shutdown));
        let measures = Measures::default();
        measures.register(&ctx.metrics);
        let hub = Hub::new(measures.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(server::run(Arc::clone(&ctx), hub.clone(), measures, listener));
        Self { ctx, hub, stop, served, address }
    }

    pub(crate) fn ca(&self) -> Arc<MeshCa> {
        self.ctx.authorities.mesh(MESH).unwrap()
    }

    pub(crate) fn metrics(&self) -> String {
        self.ctx.metrics.encode().unwrap()
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

/// Everything that the parts share.
pub(crate) fn context(shutdown: Shutdown) -> Ctx {
    let client = Client::new(tower::service_fn(api), "default");
    let namespace = |name: &str, labels: Value| {
        serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } })).unwrap()
    };
    let namespaces =
        Cache::of([namespace("shop", json!({ "bowline.dev/mesh": MESH })), namespace("outside", json!({}))]);
    let pods = Cache::of([
        pod("web-1", "uid-1", "10.244.0.1", "Running", true),
        pod("done", "uid-2", "10.244.0.2", "Succeeded", true),
        pod("bare", "uid-3", "10.244.0.3", "Running", false),
    ]);
    let meshes = Cache::of([Mesh::new(MESH, MeshSpec::default())]);
    let config = Config {
        namespace: "bowline-system".into(),
        pod_name: "bowline-operator-0".into(),
        proxy_image: "localhost/bowline-proxy:0.1.0".into(),
        cluster_domain: "cluster.local".into(),
        admin_port: 0,
        webhook_port: 0,
        control_port: 0,
        log: "off".into(),
    };
    Ctx {
        registry: Registry::new(meshes, &config.namespace),
        namespaces,
        pods,
        authorities: authorities(),
        evidence: Evidence::default(),
        tls: Tls::default(),
        control_ips: watch::Sender::default(),
        metrics: Metrics::default(),
        webhook: watch::Sender::default(),
        recorder: Recorder::new(client.clone(), Reporter::from("test")),
        serving: Arc::default(),
        readiness: Readiness::default(),
        leader: watch::channel(false).1,
        shutdown,
        client,
        config,
    }
}

fn authorities() -> Authorities {
    let policy = Policy {
        mesh: MESH.into(),
        trust_domain: "cluster.local".into(),
        root_lifetime: Duration::from_secs(86_400 * 365),
        issuer_lifetime: Duration::from_secs(86_400 * 30),
        leaf_lifetime: Duration::from_secs(86_400),
        after_percent: 50,
        requests: Requests::default(),
        distrust: Vec::new(),
        offer: Offer::BuiltIn,
        published_sequence: 0,
    };
    let state = issue::apply(None, &[Write::First], &policy, None, std::time::SystemTime::now()).unwrap();
    let data = [(format!("{MESH}.json"), ByteString(state.to_json().to_vec()))].into();
    let authorities = Authorities::new();
    authorities.observe(Some(&Secret { data: Some(data), ..Secret::default() }));
    authorities
}

fn pod(name: &str, uid: &str, ip: &str, phase: &str, injected: bool) -> k8s_openapi::api::core::v1::Pod {
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

/// The API server: reviews tokens by their text, and has no other pods and namespaces than the caches.
async fn api(request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    let (code, answer) = if path.ends_with("/tokenreviews") {
        let review: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(review["spec"]["audiences"], json!(["bowline.dev/identity"]));
        review_of(review["spec"]["token"].as_str().unwrap())
    } else if path == "/api/v1/namespaces/young" {
        let labels = json!({ "bowline.dev/mesh": MESH });
        (200, json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": "young", "labels": labels } }))
    } else if path == "/api/v1/namespaces/outside" {
        (200, json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": "outside" } }))
    } else if path == "/api/v1/namespaces/early" {
        let labels = json!({ "team": "early" });
        (200, json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": "early", "labels": labels } }))
    } else if path == "/apis/bowline.dev/v1alpha1/meshes" {
        // One that no watch has told of yet.
        let selector = json!({ "matchLabels": { "team": "early" } });
        let mesh = |name: &str, spec: Value| {
            json!({ "apiVersion": "bowline.dev/v1alpha1", "kind": "Mesh", "metadata": { "name": name },
                    "spec": spec })
        };
        let young = mesh("young", json!({ "injection": { "namespaceSelector": selector } }));
        let items = [mesh(MESH, json!({})), young];
        (200, json!({ "apiVersion": "bowline.dev/v1alpha1", "kind": "MeshList", "metadata": {}, "items": items }))
    } else {
        (
            404,
            json!({ "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found" }),
        )
    };
    let body = Body::from(serde_json::to_vec(&answer).unwrap());
    Ok(Response::builder().status(code).header("content-type", "application/json").body(body).unwrap())
}

fn review_of(token: &str) -> (u16, Value) {
    let holder = |user: &str, pod: &str, uid: &str| {
        json!({ "authenticated": true, "audiences": ["bowline.dev/identity"], "user": {
            "username": user,
            "extra": { "authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid] }
        } })
    };
    const WEB: &str = "system:serviceaccount:shop:web";
    let status = match token {
        "good" => holder(WEB, "web-1", "uid-1"),
        "expired-secret" => json!({ "error": "[invalid bearer token, service account token has expired]" }),
        "audience-secret" => {
            let mut status = holder(WEB, "web-1", "uid-1");
            status["audiences"] = json!(["https://kubernetes.default.svc"]);
            status
        }
        "user-secret" => holder("jane", "web-1", "uid-1"),
        "podless-secret" => {
            json!({ "authenticated": true, "audiences": ["bowline.dev/identity"], "user": { "username": WEB } })
        }
        "outsider-secret" => holder("system:serviceaccount:outside:web", "web-1", "uid-1"),
        "replaced-secret" => holder(WEB, "web-1", "uid-0"),
        "ended-secret" => holder(WEB, "done", "uid-2"),
        "account-secret" => holder("system:serviceaccount:shop:admin", "web-1", "uid-1"),
        "bare-secret" => holder(WEB, "bare", "uid-3"),
        "down-secret" => {
            return (500, json!({ "kind": "Status", "status": "Failure", "code": 500, "message": "etcd is away" }));
        }
        _ => json!({ "error": "invalid bearer token" }),
    };
    (
        201,
        json!({ "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {}, "status": status }),
    )
}
