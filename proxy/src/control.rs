//! Configuration from the control plane: the check that every resource passes ([`apply`]) and (with the data plane) the stream
//! and the state it fills.

pub mod apply;
#[cfg(feature = "data-plane")]
pub mod dial;
#[cfg(feature = "data-plane")]
pub mod state;
#[cfg(feature = "data-plane")]
pub mod stream;
