//! What is known of the cluster: watches come in; objects, and which namespace and pod belongs to which Mesh, go out.

pub mod cache;
pub mod control_ips;
pub mod deletion;
pub mod lookup;
pub mod membership;
pub mod mesh;
pub mod namespaced_name;
pub mod pod;
pub mod workload;
