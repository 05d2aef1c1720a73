//! Bowline's sidecar proxy.
//!
//! Floors, from the ground up: `contract` < `telemetry` < `identity` < `control` < `data_path` < `admin` < `process`.
//! A room imports only from rooms on floors below its own; `cargo test -p floors` sees to it.
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
