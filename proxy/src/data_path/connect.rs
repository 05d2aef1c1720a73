//! An endpoint's address and the identity that is expected there come in; a stream or a connection that is ready for a request goes out.
//!
//! Connections are kept by each worker for itself: HTTP/2 connections whose streams are shared out ([`http2`], with and without mutual TLS),
//! and HTTP/1 connections that carry one request at a time ([`http1`]).

pub(crate) mod dial;
pub(crate) mod endpoint;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod load;
pub(crate) mod registry;
pub(crate) mod socket;
mod write_first;
