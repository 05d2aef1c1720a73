//! The keys and certificates behind the decisions, and the Secret that holds them.
//!
//! Comes in: what was decided, what an external source offers ([`source`], [`cert_manager`], [`external`]), signing requests ([`csr`]). Goes out: new authorities
//! ([`issue`]), leaves ([`signer`], [`mesh_ca`]), and the [`state`] of each Mesh in the Secret `bowline-ca`, written with a precondition
//! ([`store`]), kept in memory by every replica ([`authorities`]), and put back when somebody empties it ([`restore`]).

pub mod authorities;
pub mod cert_manager;
pub mod csr;
pub mod external;
pub mod issue;
pub mod key;
pub mod material;
pub mod mesh_ca;
pub mod restore;
pub mod sign_error;
pub mod signer;
pub mod source;
pub mod source_error;
pub mod state;
pub mod store;
