//! Bowline's user-facing Kubernetes types and the names that users type; nothing else.
//!
//! Floors, from the ground up: `duration` < `mesh`, `conditions`, `names`.

pub mod conditions;
pub mod duration;
pub mod mesh;
pub mod names;

pub use mesh::{Mesh, MeshSpec, MeshStatus};
