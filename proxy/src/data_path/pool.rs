//! Connections to endpoints, kept by each worker for itself: HTTP/2 connections whose streams are shared out ([`h2pool`], with and
//! without mutual TLS), and HTTP/1 connections that carry one request at a time ([`h1pool`]).

mod dial;
mod endpoint;
mod h1pool;
mod h2pool;
mod write_first;

pub(crate) use dial::{connect, keepalive, prepare};
pub(crate) use endpoint::{Candidate, Endpoint, EndpointKey};
pub(crate) use h1pool::{Connection1, Pool1};
pub(crate) use h2pool::{Pool2, Secure, Stream2};
