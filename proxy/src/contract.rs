//! What operator and proxy agree on, and all that the operator takes of this crate: how a sidecar is set up ([`bootstrap`]), the wire
//! protocol ([`proto`]), the identities of workloads ([`spiffe`]), and the check that every resource passes before the operator ships
//! it and again before a proxy uses it ([`resource`]). Encoded messages and texts come in, checked domain types go out.
//! Imports nothing of the proxy and knows no feature.

pub mod bootstrap;
pub mod proto;
pub mod resource;
pub mod spiffe;
