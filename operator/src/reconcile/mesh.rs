//! Reconciles Meshes: [`fetch`] → validate → [`build`] → [`apply`] → [`status`]. Leader only. Comes in: Meshes, namespaces, pods and trust
//! ConfigMaps, as the caches have them. Goes out: ConfigMaps, the Secret with the CA's state, status and events.
//!
//! [`controller`] says when a Mesh is reconciled, [`reconcile`](mod@reconcile) in which order. No step between fetch and apply has a client but
//! the CA's own ([`crate::reconcile::rotation`]).

pub mod apply;
pub mod build;
pub mod config_map;
pub mod controller;
pub mod error;
pub mod events;
pub mod fetch;
mod measure;
pub mod namespaces;
pub mod new_root;
pub mod pods;
mod queue;
pub mod reconcile;
pub mod status;
