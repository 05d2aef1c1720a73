//! HTTP through the proxy: two front ends ([`serve1`], [`serve2`]) accept requests, [`exchange`] carries each to the endpoint that its
//! route picks, [`upgrade`] and [`crate::data_path::tcp`] take over where a request becomes a tunnel.
//!
//! Both ways use one body type, [`payload::Payload`], so there is one monomorphic path and nothing is boxed.

pub(crate) mod again;
pub(crate) mod answer;
pub(crate) mod exchange;
pub(crate) mod expect;
pub(crate) mod headers;
pub(crate) mod idle;
mod observed;
pub(crate) mod payload;
pub(crate) mod pump;
pub(crate) mod serve1;
pub(crate) mod serve2;
pub(crate) mod upgrade;
pub(crate) mod window;

/// Largest head of a request or response, bytes.
pub(crate) const MAX_HEAD: usize = 64 << 10;
/// Most headers of a request or response.
pub(crate) const MAX_HEADERS: usize = 256;
/// Streams that a peer may have open on one HTTP/2 connection.
pub(crate) const MAX_STREAMS: u32 = 1024;
/// Largest frame that is taken.
pub(crate) const FRAME: u32 = 64 << 10;
