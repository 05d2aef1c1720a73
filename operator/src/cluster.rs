//! What is known of the cluster: watches come in; objects, and which namespace and pod belongs to which Mesh, go out.

pub mod cache;
pub mod lookup;
pub mod membership;
