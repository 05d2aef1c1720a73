//! What a test is given. In: a cluster. Out: a client, kubectl, namespaces of a test's own, a way into the pod network, and places for what
//! it finds.

pub mod connect;
mod diagnose;
mod namespaces;
mod network;
pub mod pods;
pub mod reach;
mod wait;

pub use e2e::report::figures::Figures;

pub use self::connect::Context;
pub use self::pods::Ran;
