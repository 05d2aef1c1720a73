//! `bowline-proxy standalone FILE`: the data plane with a fixed table and certificates from files, for benchmarks and for trying
//! things out without a cluster.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{
    contract::{
        resource::{Bundle, Endpoint, InboundPolicy, Protocol, Selection, Service, ServiceKey, ServicePort},
        spiffe::{SpiffeError, SpiffeId},
    },
    control::state::State,
    data_path::start::{self, Config, Destination, Locality, StartError},
    identity::{
        store::{Current, Store},
        tls,
    },
    telemetry::metrics::Metrics,
};

/// The file.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    /// This workload's SPIFFE ID.
    pub identity: String,
    /// PEM file with the leaf and its intermediates.
    pub certificate: PathBuf,
    /// PEM file with the leaf's key.
    pub key: PathBuf,
    /// PEM file with the roots that are trusted.
    pub roots: PathBuf,
    /// Threads.
    #[serde(default = "one")]
    pub workers: usize,
    /// Listens for the application's connections; without it there is no outbound.
    pub outbound: Option<Outbound>,
    /// Listens for other proxies; without it there is no inbound.
    pub inbound: Option<Inbound>,
}

/// Outbound: every connection goes to one service.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outbound {
    /// Own address.
    pub listen: SocketAddr,
    /// `http1`, `http2`, `tcp`, or `detect`.
    #[serde(default)]
    pub protocol: DeclaredProtocol,
    /// Port on which the endpoints' proxies listen.
    pub mesh_port: u16,
    /// Where to.
    pub endpoints: Vec<OutboundEndpoint>,
}

/// An endpoint.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutboundEndpoint {
    /// Address and port of the application.
    pub address: SocketAddr,
    /// SPIFFE ID expected there; without it the application is spoken to in plain.
    pub identity: Option<String>,
}

/// Inbound.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inbound {
    /// Own address for other proxies.
    pub mesh: SocketAddr,
    /// Own address for connections without mutual TLS; without it there is none.
    pub plain: Option<SocketAddr>,
    /// The application.
    pub application: SocketAddr,
    /// Whether connections without mutual TLS are refused.
    #[serde(default = "yes")]
    pub strict: bool,
}

/// A declared protocol.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum DeclaredProtocol {
    #[default]
    Detect,
    Http1,
    Http2,
    Tcp,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

/// It cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// The file or one that it names.
    #[error("{0}: {1}")]
    File(PathBuf, String),
    /// A SPIFFE ID.
    #[error(transparent)]
    Spiffe(#[from] SpiffeError),
    /// The certificates make no TLS configuration.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// See [`StartError`].
    #[error(transparent)]
    Start(#[from] StartError),
    /// The system refuses.
    #[error("the proxy cannot run: {0}")]
    System(#[from] std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Says which file or address cannot be used, and why.
pub fn run(path: &Path) -> Result<(), StandaloneError> {
    let bad = |e: String| StandaloneError::File(path.to_owned(), e);
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    let file: File = serde_yaml::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let handle = start(&file)?;
        let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
        handle.drain(std::time::Duration::from_secs(1)).await;
        Ok(())
    })
}

/// Starts the data plane that a file describes.
///
/// # Errors
/// See [`run`].
pub fn start(file: &File) -> Result<start::Handle, StandaloneError> {
    let store = Store::new();
    store.publish(current(file)?);
    let state = State::fixed();
    // An address for documentation (RFC 5737): the table's only destination, dialled by nobody.
    let to = SocketAddr::from(([192, 0, 2, 1], 80));
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config {
        outbound: loopback,
        outbound_to: Destination::Fixed(to),
        plain: loopback,
        plain_to: Destination::Fixed(to),
        mesh: loopback,
        mesh_port: crate::contract::bootstrap::ports::MESH,
        application: None,
        workload: "default/standalone".into(),
        workers: file.workers,
        max_connections: start::MAX_CONNECTIONS,
        locality: Locality::default(),
    };
    if let Some(outbound) = &file.outbound {
        config.outbound = outbound.listen;
        config.mesh_port = outbound.mesh_port;
        table(&state, to, outbound)?;
    }
    if let Some(inbound) = &file.inbound {
        config.mesh = inbound.mesh;
        config.plain = inbound.plain.unwrap_or(loopback);
        config.plain_to = Destination::Fixed(inbound.application);
        config.application = Some(inbound.application);
        state.set_inbound_policy(Arc::new(InboundPolicy { strict: inbound.strict, ports: Vec::new() }));
    }
    Ok(start::start(config, store, state, Metrics::new())?)
}

fn table(state: &State, to: SocketAddr, outbound: &Outbound) -> Result<(), StandaloneError> {
    let key = ServiceKey { namespace: "default".into(), name: "server".into() };
    let endpoints = outbound
        .endpoints
        .iter()
        .map(|e| {
            let ip: IpAddr = e.address.ip();
            let identity = e.identity.as_deref().map(str::parse).transpose()?;
            let (pod, zone, node) = (String::new(), String::new(), String::new());
            let (for_zones, for_nodes) = (Vec::new(), Vec::new());
            let port = e.address.port();
            Ok(Endpoint { ip, port, identity, pod, zone, node, for_zones, for_nodes, draining: false })
        })
        .collect::<Result<Vec<_>, SpiffeError>>()?;
    let protocol = match outbound.protocol {
        DeclaredProtocol::Detect => Protocol::Detect,
        DeclaredProtocol::Http1 => Protocol::Http1,
        DeclaredProtocol::Http2 => Protocol::Http2,
        DeclaredProtocol::Tcp => Protocol::Tcp,
    };
    let port = ServicePort { port: to.port(), name: String::new(), protocol, endpoints };
    state.set_address(to.ip(), Some(Arc::new(crate::contract::resource::Address::Service(key.clone()))));
    state.set_service(key.clone(), Some(Arc::new(Service { key, ports: vec![port], selection: Selection::default() })));
    Ok(())
}

fn current(file: &File) -> Result<Current, StandaloneError> {
    let bad = |path: &Path, e: &dyn std::fmt::Display| StandaloneError::File(path.to_owned(), e.to_string());
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, StandaloneError> {
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|e| bad(path, &e))
    };
    let id: SpiffeId = file.identity.parse()?;
    let roots = certificates(&file.roots)?;
    let bundle = Arc::new(Bundle {
        trust_domain: id.trust_domain().into(),
        sequence: 1,
        roots: roots.iter().map(|r| r.to_vec()).collect(),
        ..Bundle::default()
    });
    let key = PrivateKeyDer::from_pem_file(&file.key).map_err(|e| bad(&file.key, &e))?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|e| bad(&file.key, &e))?;
    let chain = Arc::new(certificates(&file.certificate)?);
    let tls = tls::build(chain.to_vec(), key, &bundle)?;
    Ok(Current { generation: 0, id, not_after: i64::MAX, bundle, chain, tls, issuer_sha256: [0; 32] })
}
