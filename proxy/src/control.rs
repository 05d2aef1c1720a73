//! Configuration from the control plane: the stream that brings it and the state that it fills.

pub mod state;
pub mod stream;
