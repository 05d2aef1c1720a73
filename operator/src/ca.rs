//! The certificate authority of every Mesh.
//!
//! One Secret holds the state of all ([`state`]). The leader decides what is to be done ([`decide`], pure), does it ([`issue`]) and
//! writes it with a precondition ([`store`]); every replica keeps the last good state in memory ([`authorities`]), signs with it
//! ([`sign`]) and puts it back when somebody empties the Secret ([`restore`]).

pub mod authorities;
pub mod decide;
pub mod ensure;
pub mod evidence;
pub mod external;
pub mod issue;
pub mod key;
pub mod ledger;
pub mod material;
pub mod observe;
pub mod restore;
pub mod sign;
pub mod source;
pub mod state;
pub mod store;

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod testing;

pub use authorities::Authorities;
pub use sign::{MeshCa, SignError, SignedLeaf};
