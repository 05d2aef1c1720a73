//! Bowline's sidecar proxy.
//!
//! Without the feature `data-plane` this crate is what the operator shares with the proxy: the wire protocol ([`proto`]),
//! the contract between injector and sidecar ([`bootstrap`]), workload identities ([`identity::spiffe`]) and the check that every
//! configuration passes before it is shipped ([`control::apply`]).

pub mod bootstrap;
pub mod control;
pub mod identity;
pub mod proto;

#[cfg(feature = "data-plane")]
pub mod backoff;
#[cfg(feature = "data-plane")]
pub mod clock;
#[cfg(feature = "data-plane")]
pub mod health;
#[cfg(feature = "data-plane")]
pub mod tls;
