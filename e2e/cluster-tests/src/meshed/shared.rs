//! What all tests in the shared Mesh go by: its name, its identities, and how soon something happens.

use std::time::Duration;

/// The Mesh that tests share.
pub const MESH: &str = "default";
/// Its trust domain.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// What deploying, reconciling and the like may take on a busy machine of two cores.
pub const SOON: Duration = Duration::from_secs(60);

/// The identity of a workload of the shared Mesh.
#[must_use]
pub fn spiffe(namespace: &str, account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}")
}
