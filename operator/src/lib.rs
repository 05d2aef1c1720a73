//! Bowline's operator: the whole control plane in one process. Its rooms form floors, from the ground up: [`runtime`] and [`telemetry`],
//! [`cluster`], [`ca`], [`serving`], [`reconcile`], and the wiring in `run`; each imports only from those before it, and every part is
//! built in the wiring with exactly what it uses.
//!
//! Every replica serves ([`serving`]); only the leader ([`leader`]) reconciles ([`reconcile`]). All state lives in Kubernetes; what every
//! replica must know at any time comes from watches ([`cluster`]).

pub mod ca;
pub mod cluster;
pub mod leader;
pub mod reconcile;
pub mod runtime;
pub mod serving;
pub mod telemetry;

mod run;

pub use run::run;
