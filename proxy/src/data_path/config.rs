//! What the data plane is told at its start.

use std::net::{Ipv6Addr, SocketAddr};

use crate::{contract::bootstrap::ports, data_path::balance::locality::Locality};

pub use crate::data_path::listener::destination::Destination;

/// Connections open at once, all workers together; fewer where there are not descriptors for so many.
pub const MAX_CONNECTIONS: usize = 16_384;

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
    pub locality: Locality,
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
            locality: Locality::default(),
        }
    }
}
