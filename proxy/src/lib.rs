//! Bowline's sidecar proxy. Its rooms form floors: each imports only from those that stand above it in this list.
//!
//! Without the feature `data-plane` the crate is its [`contract`] alone: what the operator shares with the proxy.

pub mod contract;

#[cfg(feature = "data-plane")]
pub mod telemetry;

#[cfg(feature = "data-plane")]
pub mod identity;

#[cfg(feature = "data-plane")]
pub mod control;

#[cfg(feature = "data-plane")]
pub mod data_path;

#[cfg(feature = "data-plane")]
pub mod admin;

#[cfg(feature = "data-plane")]
pub mod process;
