//! Connections of clients and other proxies come in; each of their requests goes out for an exchange, and its response back.

pub(crate) mod http1;
pub(crate) mod http2;
