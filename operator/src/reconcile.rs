//! What only the leader does: objects of the cluster come in, writes to the API server go out.

pub mod mesh;
pub mod repair;
pub mod webhook;
