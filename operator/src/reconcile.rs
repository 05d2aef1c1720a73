//! What only the leader does: objects of the cluster come in, writes to the API server go out.
//!
//! Each reconciler fetches, decides without a client, and applies: [`mesh`] (with [`rotation`] for its certificate authority), [`webhook`],
//! [`repair`]. A rollout of proxies becomes another one beside them, driving a planner and a judge that are as pure as
//! [`crate::ca::rotation`] and stand in a room of their own below.

pub mod api_error;
pub mod mesh;
pub mod repair;
pub mod rotation;
pub mod webhook;
