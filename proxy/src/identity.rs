//! How a workload gets and keeps the certificate that proves who it is. Mounted files and the identity service's answers come in; leaf,
//! trust bundle and the TLS configurations made of them go out, swapped as one ([`store`]).
//!
//! [`renew`], over and over: [`mount`] → [`key`] → [`csr`] → [`client`], over [`control_plane`] → [`leaf`] → [`store`], [`tls`].
//! `trust` tells connections when what they were verified against is no longer trusted.

pub mod backoff;
pub mod client;
pub mod clock;
pub mod control_plane;
pub mod csr;
pub mod key;
pub mod leaf;
pub mod mount;
pub mod renew;
pub mod store;
#[cfg(test)]
pub(crate) mod test_ca;
pub mod tls;
pub(crate) mod trust;
