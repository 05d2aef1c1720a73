//! Opaque bytes come in from a client; they go out to an endpoint of the route, and what it says comes back.

pub(crate) mod copy;
pub(crate) mod upstream;
