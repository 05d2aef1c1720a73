//! Drives a Mesh's certificate authority. Comes in: what the Mesh asks for, and the Secret. Goes out: the Secret as it should be.
//!
//! [`ensure`] reads, lets [`crate::ca::rotation`] decide on what [`observe`] saw of those who depend on the CA, and writes.

pub mod ensure;
pub mod observe;
