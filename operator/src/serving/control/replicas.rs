//! What replicas of the operator tell one another: with which state of a Mesh's CA they live, and what the proxies on their streams said.
//! The leader asks all of them before it takes a step of a rotation.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bowline_proxy::contract::proto::{
    ObserveRequest, ObserveResponse, ObservedClock, ObservedProxy, replica_client::ReplicaClient,
    replica_server::Replica,
};
use hyper_util::rt::TokioIo;
use kube::runtime::reflector::ObjectRef;
use rustls::{ClientConfig, RootCertStore, sign::SingleCertAndKey};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Request, Response, Status, transport::Endpoint};

use super::{server::Peer, tls::identity};
use crate::{
    ca::sign::digest,
    cluster::namespaced_name::NamespacedName,
    runtime::{config::Config, context::Ctx},
};

/// How long a replica may take to answer, connection included.
pub const DEADLINE: Duration = Duration::from_secs(3);
/// Largest answer, in bytes: what 10,000 proxies say.
const MAX_BYTES: usize = 16 << 20;

/// Why a replica was not heard.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// This replica has nothing to prove itself with yet.
    #[error("this replica has no certificate for Mesh {0} yet")]
    NoLeaf(String),
    /// TLS cannot be configured.
    #[error("TLS cannot be configured: {0}")]
    Tls(#[from] rustls::Error),
    /// A name that is none.
    #[error("Mesh {0} makes no server name")]
    Name(String),
    /// Nobody answers there, or somebody else.
    #[error("no connection: {0}")]
    Connect(#[from] tonic::transport::Error),
    /// It refused.
    #[error("it answered {0}")]
    Refused(#[from] Status),
    /// It took longer than [`DEADLINE`].
    #[error("no answer within {DEADLINE:?}")]
    Late,
}

/// The service.
pub struct ReplicaService {
    ctx: Arc<Ctx>,
}

impl ReplicaService {
    /// Tells of `ctx`.
    #[must_use]
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self { ctx }
    }
}

#[tonic::async_trait]
impl Replica for ReplicaService {
    async fn observe(&self, request: Request<ObserveRequest>) -> Result<Response<ObserveResponse>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>().cloned().ok_or_else(|| Status::internal("no connection"))?;
        let ca = self.ctx.authorities.mesh(&peer.mesh);
        let expected = ca.map(|ca| self.ctx.config.control_identity(&ca.trust_domain));
        if expected.is_none() || peer.identity.as_ref().map(ToString::to_string) != expected {
            return Err(Status::permission_denied("only replicas of the operator may ask this"));
        }
        observe(&self.ctx, &peer.mesh)
            .map(Response::new)
            .ok_or_else(|| Status::unavailable(format!("Mesh {} is not served here yet", peer.mesh)))
    }
}

/// What this replica would answer.
#[must_use]
pub fn observe(ctx: &Ctx, mesh: &str) -> Option<ObserveResponse> {
    let holding = ctx.tls.holding(mesh)?;
    let proxies = ctx.evidence.of_mesh(mesh).into_iter().map(|(key, state)| ObservedProxy {
        pod_namespace: state.pod.namespace.to_string(),
        pod_name: state.pod.name.to_string(),
        pod_uid: key.uid,
        slot: key.slot,
        proxy_version: state.version,
        report: state.report,
    });
    let is_there = |uid: &str, pod: &NamespacedName| {
        let found = ctx.pods.store().get(&ObjectRef::new(&pod.name).within(&pod.namespace));
        // A pod that is not in the cache yet is younger than the cache.
        found.is_none_or(|p| p.metadata.uid.as_deref() == Some(uid))
    };
    let clocks = ctx.evidence.clocks(mesh, is_there).into_iter().map(|(uid, clock)| ObservedClock {
        pod_namespace: clock.pod.namespace.to_string(),
        pod_name: clock.pod.name.to_string(),
        pod_uid: uid,
        skew_ms: clock.skew_ms,
    });
    Some(ObserveResponse {
        revision: holding.revision,
        issuer_sha256: digest(&holding.issuer),
        proxies: proxies.collect(),
        clocks: clocks.collect(),
    })
}

/// Asks the replica at an address.
///
/// # Errors
/// See [`AskError`].
pub async fn ask(ctx: &Ctx, mesh: &str, ip: IpAddr) -> Result<ObserveResponse, AskError> {
    tokio::time::timeout(DEADLINE, exchange(ctx, mesh, ip)).await.map_err(|_| AskError::Late)?
}

async fn exchange(ctx: &Ctx, mesh: &str, ip: IpAddr) -> Result<ObserveResponse, AskError> {
    let ca = ctx.authorities.mesh(mesh).ok_or_else(|| AskError::NoLeaf(mesh.to_owned()))?;
    let leaf = ctx.tls.leaf(mesh).ok_or_else(|| AskError::NoLeaf(mesh.to_owned()))?;
    let mut roots = RootCertStore::empty();
    for der in &ca.bundle.roots_der {
        roots.add(CertificateDer::from(der.as_slice()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(rustls::sign::CertifiedKey::clone(&leaf))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    let sni = Config::control_sni(mesh);
    let name = ServerName::try_from(sni.clone()).map_err(|_| AskError::Name(mesh.to_owned()))?;
    let expected = ctx.config.control_identity(&ca.trust_domain);
    let (tls, address) = (TlsConnector::from(Arc::new(config)), (ip, ctx.config.control_port));
    let connector = tower::service_fn(move |_: http::Uri| {
        let (tls, name, expected) = (tls.clone(), name.clone(), expected.clone());
        async move {
            let stream = tls.connect(name, TcpStream::connect(address).await?).await?;
            let chain = stream.get_ref().1.peer_certificates();
            let found = chain.and_then(|c| c.first()).and_then(identity).map(|id| id.to_string());
            if found.as_ref() == Some(&expected) {
                Ok(TokioIo::new(stream))
            } else {
                Err(std::io::Error::other(format!("the server proves {found:?}, expected was {expected}")))
            }
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{sni}")).map_err(AskError::Connect)?;
    let channel = endpoint.connect_with_connector(connector).await?;
    let mut client = ReplicaClient::new(channel).max_decoding_message_size(MAX_BYTES);
    Ok(client.observe(ObserveRequest {}).await?.into_inner())
}
