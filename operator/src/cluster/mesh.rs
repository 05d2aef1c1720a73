//! Facts about one Mesh: whether its spec is valid, and what of it is in force. Pure; the Mesh comes in.

pub mod in_force;
pub mod invalid;
pub mod resources;
pub mod rotation;
pub mod selector;
pub mod validate;
