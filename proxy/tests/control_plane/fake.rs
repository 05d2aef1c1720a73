//! A control plane for tests: Identity and Control on one TLS port, driven by the test.
#![allow(dead_code)]

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bowline_proxy::{
    contract::{
        bootstrap::MeshInfo,
        proto::{
            ControlMessage, Digest, Heartbeat, Hello, ProxyMessage, Resource, ResourceType, SignRequest, SignResponse,
            TrustBundle, Update,
            control_message::Kind as FromControl,
            control_server::{Control, ControlServer},
            identity_server::{Identity, IdentityServer},
            proxy_message::Kind as FromProxy,
        },
        resource::Bundle,
    },
    control::{state::State, stream},
    identity::{client::CertificateClient, mount::Mounts, renew, store::Store},
    telemetry::health::Health,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rcgen::{CertificateSigningRequestParams, SanType};
use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

#[path = "ca.rs"]
mod ca;

pub(crate) use ca::Ca;
use ca::complete;

pub(crate) const DOMAIN: &str = "mesh.test";
pub(crate) const OPERATOR: &str = "spiffe://mesh.test/ns/bowline-system/sa/bowline-operator";
pub(crate) const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";
const SNI: &str = "test.mesh.bowline.internal";
/// For everything that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// How the fake signs.
#[derive(Clone)]
pub(crate) struct Signing {
    /// Signs.
    pub(crate) ca: Arc<Ca>,
    /// Lifetime of leaves.
    pub(crate) life: Duration,
    /// Answers this instead.
    pub(crate) refuse: Option<Status>,
    /// Puts this SPIFFE ID in, whatever was asked.
    pub(crate) instead: Option<String>,
    /// Sequence of the bundle sent along.
    pub(crate) sequence: u64,
}

/// What a signing request held.
pub(crate) struct Asked {
    pub(crate) token: String,
    pub(crate) uris: Vec<String>,
    pub(crate) key: Vec<u8>,
}

#[derive(Clone)]
struct Service {
    /// Root of the fake's own certificate: trusted too.
    server_root: Vec<u8>,
    signing: Arc<Mutex<Signing>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    streams: mpsc::Sender<Stream>,
    authenticated: bool,
}

/// A control stream, seen from the control plane.
pub(crate) struct Stream {
    pub(crate) hello: Hello,
    /// Whether the proxy proved an identity.
    pub(crate) authenticated: bool,
    messages: Streaming<ProxyMessage>,
    out: mpsc::Sender<Result<ControlMessage, Status>>,
}

#[tonic::async_trait]
impl Identity for Service {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let request = request.into_inner();
        let mut csr = CertificateSigningRequestParams::from_der(&request.csr_der.to_vec().into()).unwrap();
        let uris = csr.params.subject_alt_names.iter().map(|n| match n {
            SanType::URI(uri) => uri.to_string(),
            other => format!("{other:?}"),
        });
        let key = rcgen::PublicKeyData::der_bytes(&csr.public_key).to_vec();
        self.asked.lock().unwrap().push(Asked { token: request.token, uris: uris.collect(), key });
        let signing = self.signing.lock().unwrap().clone();
        if let Some(status) = signing.refuse {
            return Err(status);
        }
        complete(&mut csr.params, signing.life);
        if let Some(other) = signing.instead {
            csr.params.subject_alt_names = vec![SanType::URI(other.as_str().try_into().unwrap())];
        }
        let leaf = csr.signed_by(&signing.ca.issuer).unwrap();
        let mut bundle = bundle(&[&signing.ca], signing.sequence);
        bundle.roots_der.push(self.server_root.clone());
        Ok(Response::new(SignResponse {
            chain_der: vec![leaf.der().to_vec(), signing.ca.issuer.der().to_vec()],
            bundle: Some(bundle),
            server_time_ms: request.client_time_ms,
        }))
    }
}

#[tonic::async_trait]
impl Control for Service {
    type ConnectStream = ReceiverStream<Result<ControlMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut messages = request.into_inner();
        let Some(FromProxy::Hello(hello)) = messages.message().await?.and_then(|m| m.kind) else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (out, rx) = mpsc::channel(64);
        let stream = Stream { hello, authenticated: self.authenticated, messages, out };
        self.streams.send(stream).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

impl Stream {
    /// The next message of the proxy.
    pub(crate) async fn next(&mut self) -> FromProxy {
        timeout(SOON, self.messages.message()).await.unwrap().unwrap().unwrap().kind.unwrap()
    }

    /// The first message from now on for which `pick` gives something.
    pub(crate) async fn find<T>(&mut self, pick: impl Fn(FromProxy) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.next().await) {
                return found;
            }
        }
    }

    pub(crate) async fn send(&self, resources: Vec<Resource>) {
        let kind = Some(FromControl::Update(Update { resources }));
        self.out.send(Ok(ControlMessage { kind })).await.unwrap();
    }

    pub(crate) async fn beat(&self, digests: Vec<Digest>) {
        let kind = Some(FromControl::Heartbeat(Heartbeat { digests }));
        self.out.send(Ok(ControlMessage { kind })).await.unwrap();
    }
}

pub(crate) fn bundle(cas: &[&Ca], sequence: u64) -> TrustBundle {
    let roots_der = cas.iter().map(|ca| ca.root.der().to_vec()).collect();
    TrustBundle { trust_domain: DOMAIN.into(), sequence, roots_der, ..TrustBundle::default() }
}

pub(crate) fn checked(cas: &[&Ca], sequence: u64) -> Bundle {
    bowline_proxy::contract::validate::trust_bundle(bundle(cas, sequence)).unwrap()
}

pub(crate) fn resource(kind: ResourceType, key: &str, version: u64, body: &impl prost::Message) -> Resource {
    Resource { r#type: kind.into(), key: key.into(), version, body: body.encode_to_vec().into() }
}

/// The fake with a proxy's control side attached to it.
pub(crate) struct World {
    pub(crate) ca: Arc<Ca>,
    pub(crate) signing: Arc<Mutex<Signing>>,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    streams: mpsc::Receiver<Stream>,
    tls: Tls,
    pub(crate) store: Arc<Store>,
    pub(crate) state: Arc<State>,
    pub(crate) health: Health,
    pub(crate) dir: PathBuf,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let ca = Arc::new(Ca::new("root"));
        Self::with(Arc::clone(&ca), &ca, OPERATOR).await
    }

    /// A control plane whose certificate is of `server_ca` for `server_id`, while the mesh trusts `ca`.
    pub(crate) async fn with(ca: Arc<Ca>, server_ca: &Ca, server_id: &str) -> Self {
        let mut world = Self::alone(ca, server_ca, server_id).await;
        world.start();
        world
    }

    /// The control plane alone; the proxy is somewhere else, its mounts in `dir`.
    pub(crate) async fn alone(ca: Arc<Ca>, server_ca: &Ca, server_id: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (streams_tx, streams) = mpsc::channel(16);
        let life = Duration::from_secs(3600);
        let signing = Signing { ca: Arc::clone(&ca), life, refuse: None, instead: None, sequence: 1 };
        let service = Service {
            server_root: server_ca.root.der().to_vec(),
            signing: Arc::new(Mutex::new(signing)),
            asked: Arc::default(),
            streams: streams_tx,
            authenticated: false,
        };
        let tls: Tls = Arc::new(Mutex::new(Arc::new(server_ca.server_config(server_id, &[&ca]))));
        let (signing, asked) = (Arc::clone(&service.signing), Arc::clone(&service.asked));
        let server = tokio::spawn(accept(listener, Arc::clone(&tls), service));
        Self {
            dir: mounts(&ca, address),
            ca,
            signing,
            asked,
            streams,
            tls,
            store: Store::new(),
            state: State::new(),
            health: Health::default(),
            tasks: vec![server],
        }
    }

    /// New connections are served with a certificate of `server`, and clients of `clients` are taken.
    pub(crate) fn serve_as(&self, server: &Ca, clients: &[&Ca]) {
        *self.tls.lock().unwrap() = Arc::new(server.server_config(OPERATOR, clients));
    }

    /// As [`World::new`], in a pod whose DNS does not know the control plane: only its addresses are published, `ips`.
    pub(crate) async fn unnamed(ips: &[IpAddr]) -> Self {
        let (ca, server) = (Arc::new(Ca::new("root")), Ca::new("server"));
        let mut world = Self::alone(Arc::clone(&ca), &server, OPERATOR).await;
        world.mount(&[&ca, &server], 1);
        let path = world.dir.join("mesh.json");
        let mut mesh: MeshInfo = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let port = mesh.control_address.rsplit_once(':').unwrap().1.to_owned();
        // RFC 2606: no resolver knows it.
        mesh.control_address = format!("bowline-control.invalid.:{port}");
        mesh.control_ips = ips.to_vec();
        std::fs::write(path, serde_json::to_string(&mesh).unwrap()).unwrap();
        world.start();
        world
    }

    fn start(&mut self) {
        let mounts = Mounts { trust: self.dir.clone(), token: self.dir.join("token") };
        let client =
            CertificateClient { mounts: mounts.clone(), namespace: "shop".into(), service_account: "web".into() };
        let (store, health) = (Arc::clone(&self.store), Arc::clone(&self.health.identity));
        self.tasks.push(tokio::spawn(renew::keep(client, store, health)));
        let proxy =
            stream::ProxyId { namespace: "shop".into(), pod: "web-1".into(), uid: "uid".into(), slot: "a".into() };
        self.tasks.push(tokio::spawn(stream::keep(stream::Client {
            proxy,
            mounts,
            store: Arc::clone(&self.store),
            state: Arc::clone(&self.state),
            health: Arc::clone(&self.health.control),
            serving: Arc::clone(&self.health.serving),
        })));
    }

    /// Ends the control plane: nothing listens any more.
    pub(crate) fn stop(&mut self) {
        self.tasks.remove(0).abort();
        self.streams.close();
    }

    pub(crate) async fn stream(&mut self) -> Stream {
        timeout(SOON, self.streams.recv()).await.expect("a control stream").unwrap()
    }

    /// Waits until the store is at `generation` or later.
    pub(crate) async fn generation(&self, generation: u64) {
        let mut watch = self.store.watch();
        timeout(SOON, watch.wait_for(|g| *g >= generation)).await.expect("a new generation").unwrap();
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
    }

    /// Writes the mounted bundle anew.
    pub(crate) fn mount(&self, cas: &[&Ca], sequence: u64) {
        self.mount_wish(cas, sequence, &[]);
    }

    /// Writes a mounted bundle that wishes for leaves of `wanted` at once.
    pub(crate) fn mount_wish(&self, cas: &[&Ca], sequence: u64, wanted: &[&Ca]) {
        let text = std::fs::read_to_string(self.dir.join("mesh.json")).unwrap();
        let mut mesh: MeshInfo = serde_json::from_str(&text).unwrap();
        mesh.bundle_sequence = sequence;
        let hex = |ca: &&Ca| data_encoding::HEXLOWER.encode(&ca.issuer_sha256());
        mesh.issuers_sha256 = wanted.iter().map(hex).collect();
        let pem: String = cas.iter().map(|ca| ca.root.pem()).collect();
        std::fs::write(self.dir.join("bundle.pem"), pem).unwrap();
        std::fs::write(self.dir.join("mesh.json"), serde_json::to_string(&mesh).unwrap()).unwrap();
    }
}

fn mounts(ca: &Ca, address: String) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("bowline-control-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mesh = MeshInfo {
        mesh: "test".into(),
        trust_domain: DOMAIN.into(),
        bundle_sequence: 1,
        control_address: address,
        control_sni: SNI.into(),
        control_identity: OPERATOR.into(),
        ..MeshInfo::default()
    };
    std::fs::write(dir.join("mesh.json"), serde_json::to_string(&mesh).unwrap()).unwrap();
    std::fs::write(dir.join("bundle.pem"), ca.root.pem()).unwrap();
    std::fs::write(dir.join("token"), "the-token\n").unwrap();
    dir
}

/// How new connections are served.
type Tls = Arc<Mutex<Arc<ServerConfig>>>;

async fn accept(listener: TcpListener, tls: Tls, service: Service) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::clone(&tls.lock().unwrap()));
        let mut service = service.clone();
        tokio::spawn(async move {
            // Refusals of the proxy under test end here.
            let Ok(stream) = tls.accept(tcp).await else { return };
            service.authenticated = stream.get_ref().1.peer_certificates().is_some();
            let (identity, control) = (IdentityServer::new(service.clone()), ControlServer::new(service));
            let both = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (mut identity, mut control) = (identity.clone(), control.clone());
                async move {
                    use tower::Service as _;
                    if request.uri().path().starts_with("/bowline.v1.Identity/") {
                        identity.call(request).await
                    } else {
                        control.call(request).await
                    }
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(both))
                .await;
        });
    }
}
