//! A slot from start to end. Settings and signals come in, and every part is built here with what it uses: role → runtime → admin →
//! identity → control → data path → ready; SIGTERM → drain → gone.

use std::{io, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    admin::{self, endpoints::Admin, ports::PortError, probes::Probes},
    contract::bootstrap::{VERSION, env},
    control::{
        state::State,
        stream::{self, ProxyId},
    },
    data_path::start::{self, Locality, StartError},
    identity::{client::CertificateClient, renew, store::Store},
    process::{
        settings::{Settings, SettingsError, slots_dir},
        slots::{self, Serving, SlotError},
    },
    telemetry::{health::Health, logs, metrics::Metrics},
};

/// A slot cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// See [`SlotError`].
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// See [`SettingsError`].
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// See [`PortError`].
    #[error(transparent)]
    Port(#[from] PortError),
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
/// See [`LifecycleError`]; the process should end with a failure then, so that the other slot takes over.
pub fn run(var: impl Fn(&str) -> Option<String>) -> Result<(), LifecycleError> {
    let serving = slots::take(&slots_dir(&var), &var(env::SLOT).unwrap_or_default(), || {
        // Without the small program this one stands by itself.
        drop(slots::exec_sibling(slots::STANDBY_PROGRAM, &[]));
    })?;
    serving.note_term();
    // Only now is anything built: a standby costs next to nothing.
    logs::start(&var);
    let settings = Settings::read(&var)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(settings, serving));
    // A name that is being resolved holds its thread for as long as the resolver likes: nobody waits for it.
    runtime.shutdown_background();
    ended
}

async fn serve(settings: Settings, serving: Serving) -> Result<(), LifecycleError> {
    tracing::info!(
        version = VERSION,
        slot = settings.slot,
        pod = settings.pod,
        namespace = settings.namespace,
        "this slot serves the pod"
    );
    let mut end = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (store, state, metrics, health) = (Store::new(), State::new(), Metrics::new(), Health::default());

    let admin = Admin {
        slot: settings.slot.clone(),
        store: Arc::clone(&store),
        state: Arc::clone(&state),
        health: health.clone(),
        metrics: {
            let metrics = Arc::clone(&metrics);
            Arc::new(move || metrics.encode())
        },
    };
    let probes = Probes::new(settings.probes.clone(), settings.ip, Arc::clone(&health.probes));
    admin::ports::open(settings.bind, admin, probes).await?;

    let certificates = CertificateClient {
        mounts: settings.mounts.clone(),
        namespace: settings.namespace.clone(),
        service_account: settings.service_account.clone(),
    };
    tokio::spawn(renew::keep(certificates, Arc::clone(&store), Arc::clone(&health.identity)));

    let control = stream::Client {
        proxy: ProxyId {
            namespace: settings.namespace.clone(),
            pod: settings.pod.clone(),
            uid: settings.uid.clone(),
            slot: settings.slot.clone(),
        },
        mounts: settings.mounts.clone(),
        store: Arc::clone(&store),
        state: Arc::clone(&state),
        health: Arc::clone(&health.control),
        serving: Arc::clone(&health.serving),
    };
    tokio::spawn(stream::keep(control));

    let data_path = start::start(data_path_config(&settings), store, state, metrics)?;
    health.serving.set_listening();

    if !serving.received_term() {
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    serving.exit_on_next_term();
    health.serving.set_draining();
    tracing::info!(seconds = settings.drain.as_secs(), "draining: what is in flight may finish");
    let finished = data_path.drain(settings.drain).await;
    tracing::info!(finished, "drained");
    Ok(())
}

/// Where the data path listens, and what it knows of the pod.
fn data_path_config(settings: &Settings) -> start::Config {
    let workload = format!("{}/{}", settings.namespace, settings.workload);
    let mut config = start::Config::for_pod(workload, settings.workers);
    config.locality = Locality { node: settings.node.clone(), zone: settings.zone.clone(), address: Some(settings.ip) };
    if let Some(ip) = settings.bind {
        for address in [&mut config.outbound, &mut config.plain, &mut config.mesh] {
            address.set_ip(ip);
        }
    }
    config
}
