//! Bowline's operator: the whole control plane in one process.
//!
//! Floors, from the ground up: `rbac`, `runtime` < `telemetry` < `cluster` < `ca`, `leader` < `serving` < `reconcile` < `run`.
//! A room imports only from rooms on floors below its own; `cargo test -p floors` sees to it.
//!
//! Every replica serves ([`serving`]); only the leader ([`leader`]) reconciles ([`reconcile`]). All state lives in Kubernetes; what every
//! replica must know at any time comes from watches ([`cluster`]). `run` builds every part with what it uses.

pub mod ca;
pub mod cluster;
pub mod leader;
pub mod rbac;
pub mod reconcile;
pub mod runtime;
pub mod serving;
pub mod telemetry;

mod run;

pub use run::run;
