//! The life of a slot, from start to end: role → runtime → identity → control → data plane → ready; SIGTERM → drain → gone.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    admin::{
        Admin,
        probes::Probes,
        server::{Answer, Keep, serve, text},
    },
    contract::bootstrap::{VERSION, env, ports},
    control::{
        state::State,
        stream::{self, Who},
    },
    data_path::start::{self, Locality, StartError},
    identity::{client::Asker, renew, store::Store},
    process::{
        settings::{Settings, SettingsError, slots_dir},
        slots::{self, Serving, SlotError},
    },
    telemetry::{health::Health, logs, metrics::Metrics},
};

/// A slot cannot live.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// See [`SlotError`].
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// See [`SettingsError`].
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A port is taken.
    #[error("port {port} on {address} cannot be opened: {source}; no other process of the pod may listen there")]
    Port {
        /// Which.
        port: u16,
        /// Where.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// See [`StartError`].
    #[error(transparent)]
    DataPlane(#[from] StartError),
    /// The system refuses what every program needs.
    #[error("the proxy cannot start: {0}")]
    System(#[from] io::Error),
}

/// Waits until this slot may serve, serves, drains and returns.
///
/// # Errors
/// See [`LifeError`]; the process should end with a failure then, so that the other slot takes over.
pub fn run(var: impl Fn(&str) -> Option<String>) -> Result<(), LifeError> {
    let serving = slots::take(&slots_dir(&var), &var(env::SLOT).unwrap_or_default(), || {
        // Without the small program this one stands by itself.
        drop(slots::become_program(slots::STANDBY_PROGRAM, &[]));
    })?;
    serving.note_term();
    // Only now is anything built: a standby costs next to nothing.
    logs::start(&var);
    let settings = Settings::read(&var)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(live(settings, serving));
    // A name that is being resolved holds its thread for as long as the resolver likes: nobody waits for it.
    runtime.shutdown_background();
    ended
}

async fn live(settings: Settings, serving: Serving) -> Result<(), LifeError> {
    tracing::info!(
        version = VERSION,
        slot = settings.slot,
        pod = settings.pod,
        namespace = settings.namespace,
        "this slot serves the pod"
    );
    let mut end = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parts = Parts { store: Store::new(), state: State::new(), health: Arc::default(), metrics: Metrics::new() };
    open_ports(&settings, &parts).await?;
    keep_up(&settings, &parts);
    let dataplane = start_dataplane(&settings, &parts)?;

    if !serving.was_told_to_end() {
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    serving.exit_on_next_term();
    parts.health.set_draining();
    tracing::info!(seconds = settings.drain.as_secs(), "told to end: what is in flight may finish");
    let finished = dataplane.drain(settings.drain).await;
    tracing::info!(finished, "drained");
    Ok(())
}

/// Opens the ports for traffic.
fn start_dataplane(settings: &Settings, parts: &Parts) -> Result<start::Handle, StartError> {
    let workload = format!("{}/{}", settings.namespace, settings.workload);
    let mut config = start::Config::for_pod(workload, settings.workers);
    config.locality = Locality { node: settings.node.clone(), zone: settings.zone.clone(), address: Some(settings.ip) };
    if let Some(ip) = settings.bind {
        for address in [&mut config.outbound, &mut config.plain, &mut config.mesh] {
            address.set_ip(ip);
        }
    }
    let (store, state, metrics) = (Arc::clone(&parts.store), Arc::clone(&parts.state), Arc::clone(&parts.metrics));
    let handle = start::start(config, store, state, metrics)?;
    parts.health.set_listening();
    Ok(handle)
}

/// What everything reads and fills.
#[derive(Clone)]
struct Parts {
    store: Arc<Store>,
    state: Arc<State>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// Starts what gets and keeps leaf and configuration.
fn keep_up(settings: &Settings, parts: &Parts) {
    let asker = Asker {
        mounts: settings.mounts.clone(),
        namespace: settings.namespace.clone(),
        service_account: settings.service_account.clone(),
    };
    tokio::spawn(renew::keep(asker, Arc::clone(&parts.store), Arc::clone(&parts.health)));
    let client = stream::Client {
        who: Who {
            namespace: settings.namespace.clone(),
            pod: settings.pod.clone(),
            uid: settings.uid.clone(),
            slot: settings.slot.clone(),
        },
        mounts: settings.mounts.clone(),
        store: Arc::clone(&parts.store),
        state: Arc::clone(&parts.state),
        health: Arc::clone(&parts.health),
    };
    tokio::spawn(stream::keep(client));
}

/// Opens the ports for admin, metrics and probes.
async fn open_ports(settings: &Settings, parts: &Parts) -> Result<(), LifeError> {
    let admin = Admin {
        slot: settings.slot.clone(),
        store: Arc::clone(&parts.store),
        state: Arc::clone(&parts.state),
        health: Arc::clone(&parts.health),
        metrics: {
            let metrics = Arc::clone(&parts.metrics);
            Arc::new(move || metrics.encode())
        },
    };
    let public = admin.clone();
    let local = settings.bind.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let everywhere = settings.bind.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
    let listener = open(local, ports::ADMIN).await?;
    tokio::spawn(serve(listener, Keep::Alive, move |r: Request<Incoming>| {
        let answer = only_get(&r).unwrap_or_else(|| admin.admin(r.uri().path()));
        std::future::ready(answer)
    }));
    let listener = open(everywhere, ports::METRICS).await?;
    tokio::spawn(serve(listener, Keep::Alive, move |r: Request<Incoming>| {
        let answer = only_get(&r).unwrap_or_else(|| public.public(r.uri().path()));
        std::future::ready(answer)
    }));
    let probes = Probes::new(settings.probes.clone(), settings.ip, Arc::clone(&parts.health));
    let probes = Arc::new(probes);
    let listener = open(everywhere, ports::PROBES).await?;
    tokio::spawn(serve(listener, Keep::One, move |r: Request<Incoming>| probe(Arc::clone(&probes), r)));
    Ok(())
}

async fn probe(probes: Arc<Probes>, request: Request<Incoming>) -> Answer {
    if let Some(refusal) = only_get(&request) {
        return refusal;
    }
    probes.answer(request.uri().path()).await
}

fn only_get(request: &Request<Incoming>) -> Option<Answer> {
    let fine = matches!(*request.method(), Method::GET | Method::HEAD);
    (!fine).then(|| text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered"))
}

/// Opens a port; where the kernel has no IPv6, `::` means every IPv4 address.
async fn open(address: IpAddr, port: u16) -> Result<TcpListener, LifeError> {
    let opened = TcpListener::bind(SocketAddr::new(address, port)).await;
    let opened = match opened {
        Err(e) if address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && e.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        opened => opened,
    };
    opened.map_err(|source| LifeError::Port { port, address, source })
}
