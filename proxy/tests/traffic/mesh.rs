//! A mesh of two: authority, server side, client side.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bowline_proxy::{
    contract::{
        resource::{Address, Bundle, Endpoint, InboundPolicy, Protocol, Selection, Service, ServiceKey, ServicePort},
        spiffe::SpiffeId,
    },
    control::state::State,
    data_path::start::{self, Config, Destination, Handle, Locality},
    identity::{
        store::{Current, Store},
        tls,
    },
    telemetry::metrics::Metrics,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;

pub(crate) const DOMAIN: &str = "mesh.test";
/// The cluster IP that every test's client connects to.
pub(crate) const SERVICE: &str = "10.96.0.10";
pub(crate) const SERVICE_PORT: u16 = 80;
/// Everything that waits, waits at most this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new(DOMAIN, "shop", account).unwrap()
}

pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn leaf(&self, id: &SpiffeId, bundle: &Arc<Bundle>) -> Current {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let chain = Arc::new(vec![leaf.der().clone()]);
        let tls = tls::build(chain.to_vec(), key, bundle).unwrap();
        let bundle = Arc::clone(bundle);
        Current { generation: 0, id: id.clone(), not_after: i64::MAX, bundle, chain, tls, issuer_sha256: [0; 32] }
    }
}

pub(crate) fn bundle(sequence: u64, cas: &[&Ca]) -> Arc<Bundle> {
    let roots = cas.iter().map(|ca| ca.0.der().to_vec()).collect();
    Arc::new(Bundle { trust_domain: DOMAIN.into(), sequence, roots, ..Bundle::default() })
}

/// A bundle that says that the key of `revoked` is compromised.
pub(crate) fn revoking(sequence: u64, cas: &[&Ca], revoked: &[&Ca]) -> Arc<Bundle> {
    let revoked = revoked.iter().map(|ca| <sha2::Sha256 as sha2::Digest>::digest(ca.0.der()).into()).collect();
    Arc::new(Bundle { revoked, ..Arc::unwrap_or_clone(bundle(sequence, cas)) })
}

/// One data plane.
pub(crate) struct Plane {
    pub(crate) handle: Handle,
    pub(crate) store: Arc<Store>,
    pub(crate) state: Arc<State>,
}

pub(crate) fn config(ip: IpAddr) -> Config {
    let any = SocketAddr::new(ip, 0);
    Config {
        outbound: any,
        outbound_to: Destination::Fixed(format!("{SERVICE}:{SERVICE_PORT}").parse().unwrap()),
        plain: any,
        plain_to: Destination::Redirected,
        mesh: any,
        mesh_port: 0,
        application: None,
        workload: "shop/test".into(),
        workers: 1,
        max_connections: 1000,
        locality: Locality::default(),
    }
}

pub(crate) fn plane(config: Config, current: Current) -> Plane {
    let (store, state) = (Store::new(), State::fixed());
    store.publish(current);
    let handle = start::start(config, Arc::clone(&store), Arc::clone(&state), Metrics::new()).unwrap();
    Plane { handle, store, state }
}

/// Client side and server side, the application at `application`.
pub(crate) struct Mesh {
    pub(crate) ca: Ca,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) client: Plane,
    pub(crate) server: Plane,
}

impl Mesh {
    /// The application is to listen on a loopback address of its own, where its proxy does too.
    pub(crate) fn new(application: SocketAddr, protocol: Protocol) -> Self {
        Self::with(application, protocol, |_, _| {})
    }

    pub(crate) fn with(application: SocketAddr, protocol: Protocol, change: impl Fn(&mut Config, &mut Config)) -> Self {
        let ca = Ca::new("root");
        let bundle = bundle(1, &[&ca]);
        let mut server = config(application.ip());
        server.plain_to = Destination::Fixed(application);
        let mut client = config([127, 0, 0, 1].into());
        change(&mut client, &mut server);
        let server = plane(server, ca.leaf(&id("server"), &bundle));
        client.mesh_port = server.handle.mesh.port();
        let client = plane(client, ca.leaf(&id("client"), &bundle));
        let mesh = Self { ca, bundle, client, server };
        mesh.serve(protocol, vec![mesh.endpoint(application, "server")]);
        mesh
    }

    pub(crate) fn endpoint(&self, application: SocketAddr, account: &str) -> Endpoint {
        Endpoint {
            ip: application.ip(),
            port: application.port(),
            identity: Some(id(account)),
            pod: "pod".into(),
            zone: String::new(),
            node: String::new(),
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
            draining: false,
        }
    }

    /// Sets what stands behind the Service.
    pub(crate) fn serve(&self, protocol: Protocol, endpoints: Vec<Endpoint>) {
        self.serve_as(Selection::default(), protocol, endpoints);
    }

    /// The same for a Service that wants its endpoints chosen otherwise.
    pub(crate) fn serve_as(&self, selection: Selection, protocol: Protocol, endpoints: Vec<Endpoint>) {
        let key = ServiceKey { namespace: "shop".into(), name: "web".into() };
        let port = ServicePort { port: SERVICE_PORT, name: "http".into(), protocol, endpoints };
        let service = Service { key: key.clone(), ports: vec![port], selection };
        let ip = SERVICE.parse().unwrap();
        if self.client.state.peek(ip).is_none() {
            self.client.state.set_address(ip, Some(Arc::new(Address::Service(key.clone()))));
        }
        self.client.state.set_service(key, Some(Arc::new(service)));
    }

    pub(crate) fn policy(&self, strict: bool) {
        self.server.state.set_inbound_policy(Arc::new(InboundPolicy { strict, ports: Vec::new() }));
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.client.handle.outbound).await.unwrap()
    }

    /// What the client side's data plane counts, as Prometheus sees it.
    pub(crate) fn metrics(&self) -> String {
        self.client.handle.metrics().encode()
    }
}

/// Waits for a condition with a deadline.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Fails instead of hanging.
pub(crate) async fn soon<F: Future>(what: &str, work: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(out) => out,
        Err(_) => panic!("took too long: {what}"),
    }
}
