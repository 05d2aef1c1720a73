//! Bounds: a connection, a handshake or a message comes in; out comes a permit that counts until it is dropped, or the most that is taken.

pub(crate) mod connections;
pub(crate) mod descriptors;
pub(crate) mod handshakes;
pub(crate) mod messages;
