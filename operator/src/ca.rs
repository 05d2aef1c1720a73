//! The certificate authority of every Mesh, in two rooms: [`rotation`] decides, [`issuance`] holds the keys and signs.
//!
//! Comes in: what a Mesh asks for, the evidence of who trusts what, certificate signing requests. Goes out: leaves, trust bundles, and the
//! one Secret that holds the state of all Meshes. The leader's reconciler drives it (`reconcile::rotation`); every replica keeps the last
//! good state in memory and signs with it.

pub mod fingerprint;
pub mod issuance;
pub mod rotation;
pub mod unix_time;

#[cfg(test)]
pub(crate) mod testing;

pub use issuance::{authorities::Authorities, mesh_ca::MeshCa, sign_error::SignError, signer::SignedLeaf};
