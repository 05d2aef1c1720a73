//! Bowline's sidecar proxy.
//!
//! Without the feature `data-plane` this crate is its [`contract`] alone: what the operator shares with the proxy.

pub mod contract;
#[cfg(feature = "data-plane")]
pub mod control;
#[cfg(feature = "data-plane")]
pub mod identity;

#[cfg(feature = "data-plane")]
pub mod admin;
#[cfg(feature = "data-plane")]
pub mod backoff;
#[cfg(feature = "data-plane")]
mod carry;
#[cfg(feature = "data-plane")]
pub mod clock;
#[cfg(feature = "data-plane")]
mod cork;
#[cfg(feature = "data-plane")]
pub mod dataplane;
#[cfg(feature = "data-plane")]
mod detect;
#[cfg(feature = "data-plane")]
pub mod drain;
#[cfg(feature = "data-plane")]
pub mod gate;
#[cfg(feature = "data-plane")]
pub mod health;
#[cfg(feature = "data-plane")]
mod http;
#[cfg(feature = "data-plane")]
mod inbound;
#[cfg(feature = "data-plane")]
pub mod life;
#[cfg(feature = "data-plane")]
mod listen;
#[cfg(feature = "data-plane")]
pub mod logs;
#[cfg(feature = "data-plane")]
mod memory;
#[cfg(feature = "data-plane")]
pub mod metrics;
#[cfg(feature = "data-plane")]
mod outbound;
#[cfg(feature = "data-plane")]
mod places;
#[cfg(feature = "data-plane")]
mod pool;
#[cfg(feature = "data-plane")]
pub mod probes;
#[cfg(feature = "data-plane")]
pub mod redirect;
#[cfg(feature = "data-plane")]
pub mod serve_http;
#[cfg(feature = "data-plane")]
pub mod settings;
#[cfg(feature = "data-plane")]
pub mod slots;
#[cfg(feature = "data-plane")]
pub mod standalone;
#[cfg(feature = "data-plane")]
mod tcp;
#[cfg(feature = "data-plane")]
pub mod tls;
#[cfg(feature = "data-plane")]
mod trust;
#[cfg(feature = "data-plane")]
mod worker;
