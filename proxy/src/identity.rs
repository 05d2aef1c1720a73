//! How a workload gets and keeps the leaf that proves who it is: mount → key → csr → client → leaf → store, over and over by renew.

pub mod client;
pub mod clock;
pub mod csr;
pub mod dial;
pub mod key;
pub mod leaf;
pub mod mount;
pub mod renew;
pub mod store;
#[cfg(test)]
pub(crate) mod test_ca;
pub mod tls;
pub(crate) mod trust;
