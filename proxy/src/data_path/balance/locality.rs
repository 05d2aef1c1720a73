//! Where this workload is.

use std::net::IpAddr;

/// Where a workload is, for Services that care.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locality {
    /// Name of its node; empty: not known.
    pub node: String,
    /// Its topology zone; empty: not known.
    pub zone: String,
    /// Its address.
    pub address: Option<IpAddr>,
}
