//! The data plane: a few worker threads, each with a runtime, listeners, connections and balancers of its own.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::{net::TcpListener, task::LocalSet};

use crate::{
    contract::bootstrap::ports,
    control::state::State,
    data_path::{
        buffer::windows,
        drain::{Drain, Phase},
        limits::connections::{self, Places},
        listener::accept::{self, Door},
        worker::Worker,
    },
    identity::store::Store,
    telemetry::metrics::Metrics,
};

/// Connections open at once, all workers together; fewer where there are not descriptors for so many.
pub const MAX_CONNECTIONS: usize = 16_384;

/// Where the connections of a listener are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Where they were going before they were redirected (SO_ORIGINAL_DST).
    Redirected,
    /// Always here: nothing redirects.
    Fixed(SocketAddr),
}

/// What the data plane is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Listens for what the application opens.
    pub outbound: SocketAddr,
    /// Where that goes.
    pub outbound_to: Destination,
    /// Listens for what comes without mutual TLS.
    pub plain: SocketAddr,
    /// Where that goes.
    pub plain_to: Destination,
    /// Listens for other proxies.
    pub mesh: SocketAddr,
    /// Port on which other pods' proxies listen.
    pub mesh_port: u16,
    /// Where inbound connections go, if not to the address that they came to.
    pub application: Option<SocketAddr>,
    /// `namespace/name` of this workload, for metrics.
    pub workload: String,
    /// Threads.
    pub workers: usize,
    /// Connections open at once.
    pub max_connections: usize,
    /// Where this workload is.
    pub here: Here,
}

/// Where a workload is, for Services that care.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Here {
    /// Name of its node; empty: not known.
    pub node: String,
    /// Its topology zone; empty: not known.
    pub zone: String,
    /// Its address.
    pub address: Option<IpAddr>,
}

impl Config {
    /// For a pod: ports of the contract on every address, redirected by the gate's rules.
    #[must_use]
    pub fn for_pod(workload: String, workers: usize) -> Self {
        let on = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        Self {
            outbound: on(ports::OUTBOUND),
            outbound_to: Destination::Redirected,
            plain: on(ports::INBOUND),
            plain_to: Destination::Redirected,
            mesh: on(ports::MESH),
            mesh_port: ports::MESH,
            application: None,
            workload,
            workers,
            max_connections: MAX_CONNECTIONS,
            here: Here::default(),
        }
    }
}

/// The data plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken.
    #[error("port {0} cannot be opened: {1}; no other process of the pod may listen there")]
    Port(SocketAddr, #[source] io::Error),
    /// The system gives no thread or runtime.
    #[error("a worker thread cannot be started: {0}")]
    Thread(#[source] io::Error),
}

/// A running data plane.
#[derive(Debug)]
pub struct Handle {
    drain: Arc<Drain>,
    metrics: Arc<Metrics>,
    workers: Vec<JoinHandle<()>>,
    /// Address that the outbound listener got.
    pub outbound: SocketAddr,
    /// Address that the plain inbound listener got.
    pub plain: SocketAddr,
    /// Address that the mesh listener got.
    pub mesh: SocketAddr,
}

impl Handle {
    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.drain.count()
    }

    /// Accepts nothing new, lets what is in flight finish until `deadline` from now, then cuts off. `true` when all finished.
    pub async fn drain(self, deadline: Duration) -> bool {
        self.drain.advance(Phase::Draining);
        let finished = tokio::time::timeout(deadline, self.drain.empty()).await.is_ok();
        self.drain.advance(Phase::Forced);
        let joined = tokio::task::spawn_blocking(move || {
            for worker in self.workers {
                // A worker that panicked has ended too.
                let _ = worker.join();
            }
        });
        let _ = joined.await;
        finished
    }
}

/// Sockets of one worker.
struct Sockets {
    outbound: std::net::TcpListener,
    plain: std::net::TcpListener,
    mesh: std::net::TcpListener,
}

/// Opens the ports and starts the workers; when this returns, connections are accepted.
///
/// # Errors
/// When a port is taken or a thread cannot be started.
pub fn start(
    mut config: Config,
    store: Arc<Store>,
    state: Arc<State>,
    metrics: Arc<Metrics>,
) -> Result<Handle, StartError> {
    let mut sockets = Vec::new();
    for _ in 0..config.workers.max(1) {
        let open = |address: &mut SocketAddr| {
            let opened = accept::open(*address).map_err(|e| StartError::Port(*address, e))?;
            // With port 0 the first worker finds one for all.
            *address = opened.local_addr().map_err(|e| StartError::Port(*address, e))?;
            Ok(opened)
        };
        sockets.push(Sockets {
            outbound: open(&mut config.outbound)?,
            plain: open(&mut config.plain)?,
            mesh: open(&mut config.mesh)?,
        });
    }
    let drain = Drain::new();
    connections::raise_descriptors();
    config.max_connections = config.max_connections.min(connections::affordable());
    let config = Arc::new(config);
    // Counted for the life of the process; a data plane is started once.
    let open: &'static Places = Box::leak(Box::new(Places::new(config.max_connections)));
    let mut workers = Vec::new();
    for (n, sockets) in sockets.into_iter().enumerate() {
        let (config, store, state) = (Arc::clone(&config), Arc::clone(&store), Arc::clone(&state));
        let (metrics, drain) = (Arc::clone(&metrics), Arc::clone(&drain));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let thread = std::thread::Builder::new().name(format!("worker-{n}")).spawn(move || {
            windows::begin(config.workers);
            let worker = Worker::new(config, store, state, metrics, drain);
            LocalSet::new().block_on(&runtime, run(worker, sockets, open));
        });
        workers.push(thread.map_err(StartError::Thread)?);
    }
    let (outbound, plain, mesh) = (config.outbound, config.plain, config.mesh);
    Ok(Handle { drain, metrics, workers, outbound, plain, mesh })
}

async fn run(worker: std::rc::Rc<Worker>, sockets: Sockets, open: &'static Places) {
    for (door, socket) in [(Door::Outbound, sockets.outbound), (Door::Plain, sockets.plain), (Door::Mesh, sockets.mesh)]
    {
        match TcpListener::from_std(socket) {
            Ok(listener) => {
                tokio::task::spawn_local(accept::accept(std::rc::Rc::clone(&worker), door, listener, open));
            }
            Err(e) => tracing::error!(error = %e, "a listener cannot be used"),
        }
    }
    tokio::task::spawn_local(std::rc::Rc::clone(&worker).keep_clean());
    let mut drain = worker.drain.watch();
    drain.reached(Phase::Draining).await;
    tokio::select! {
        () = close_when_idle(&worker) => {}
        () = drain.reached(Phase::Forced) => {}
    }
}

/// While draining, connections to endpoints close as soon as nothing uses them.
async fn close_when_idle(worker: &Worker) {
    loop {
        worker.close_idle();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
