//! What operator and proxy agree on, and all that the operator takes of this crate. Encoded messages and texts come in, validated domain
//! types go out. Imports nothing else of the proxy and knows no feature.
//!
//! - injector → sidecar: [`bootstrap`], [`probe`]
//! - operator ↔ proxy: the wire protocol [`proto`]; the domain types [`resource`], made of it by [`validate`], which the operator runs
//!   before it ships a resource and the proxy runs before it uses it
//! - proxy ↔ proxy: [`tunnel`], [`reason`]
//! - everywhere: the identities of workloads, [`spiffe`]

pub mod bootstrap;
pub mod probe;
pub mod proto;
pub mod reason;
pub mod resource;
pub mod spiffe;
pub mod tunnel;
pub mod validate;
