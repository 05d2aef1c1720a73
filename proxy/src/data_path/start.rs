//! Starts the data plane: a few threads, each with a runtime and a [`Worker`](super::worker) of its own, which share nothing but a
//! count of connections. A configuration comes in, a [`Handle`] goes out.

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::task::LocalSet;

use crate::{
    control::state::State,
    data_path::{
        buffer::windows,
        drain::{Drain, Phase},
        limits::{connections::ConnectionLimit, descriptors},
        listener::bind,
        worker::{Sockets, Worker},
    },
    identity::store::Store,
    telemetry::metrics::Metrics,
};

pub use crate::data_path::{
    balance::locality::Locality,
    config::{Config, Destination, MAX_CONNECTIONS},
};

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
            let opened = bind::open(*address).map_err(|e| StartError::Port(*address, e))?;
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
    descriptors::raise_limit();
    config.max_connections = config.max_connections.min(descriptors::connections());
    // Counted for the life of the process; a data plane is started once.
    let limit: &'static ConnectionLimit = Box::leak(Box::new(ConnectionLimit::new(config.max_connections)));
    let config = Arc::new(config);
    let mut workers = Vec::new();
    for (n, sockets) in sockets.into_iter().enumerate() {
        let (config, store, state) = (Arc::clone(&config), Arc::clone(&store), Arc::clone(&state));
        let (metrics, drain) = (Arc::clone(&metrics), Arc::clone(&drain));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let thread = std::thread::Builder::new().name(format!("worker-{n}")).spawn(move || {
            windows::set_workers(config.workers);
            let worker = Worker::new(&config, &store, &state, &metrics, &drain, limit);
            LocalSet::new().block_on(&runtime, worker.run(sockets));
        });
        workers.push(thread.map_err(StartError::Thread)?);
    }
    let (outbound, plain, mesh) = (config.outbound, config.plain, config.mesh);
    Ok(Handle { drain, metrics, workers, outbound, plain, mesh })
}
