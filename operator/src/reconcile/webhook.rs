//! The webhook's serving certificate and its configuration: made at run time, so that no Git holds them, and never before a replica really
//! serves ([`probe`]).
//!
//! Comes in: the Secret, the configuration as it was seen, and the Meshes. Goes out: the [`certificate`], then the [`configuration`] that
//! trusts it, and the [`status`] that Meshes depend on. [`controller`] says when, [`reconcile`](mod@reconcile) in which order.

pub mod apply;
pub mod certificate;
pub mod configuration;
pub mod controller;
pub mod error;
pub mod probe;
pub mod reconcile;
pub mod status;
pub mod store;
