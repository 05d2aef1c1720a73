//! Connections come in at the proxy's ports: accept → permit → authenticate → decide ([`route`](super::route)); they leave for
//! [`forward`](super::forward) with where they go, or refused.

pub(crate) mod accept;
pub(crate) mod bind;
pub(crate) mod destination;
pub(crate) mod mesh;
pub(crate) mod outbound;
pub(crate) mod plaintext;
