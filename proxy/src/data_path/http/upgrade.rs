//! Requests that become tunnels: a request that asks for an upgrade, or a CONNECT, comes in; opaque bytes go both ways then.

mod application;
pub(crate) mod from_client;
pub(crate) mod from_proxy;
