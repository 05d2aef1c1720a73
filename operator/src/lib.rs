//! Bowline's operator: the whole control plane in one process.
//!
//! Every replica admits pods ([`inject`]), signs identities ([`identity`]) and serves configuration ([`control`]); only the leader
//! ([`leader`]) reconciles ([`mesh`], [`webhook`], [`inject::repair`]). All state lives in Kubernetes; what every replica must know at
//! any time comes from watches ([`meshes`], [`ca::Authorities`], [`cache`]).

pub mod admin;
pub mod ca;
pub mod cache;
pub mod client;
pub mod config;
pub mod context;
pub mod control;
pub mod identity;
pub mod inject;
pub mod leader;
pub mod listen;
pub mod lookup;
pub mod mesh;
pub mod meshes;
pub mod rbac;
pub mod telemetry;
pub mod webhook;

mod run;

pub use run::run;
