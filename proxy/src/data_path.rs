//! The data path: connections that were redirected to the proxy's ports, or come from other proxies, go in; requests and tunnels to
//! endpoints go out.
//!
//! Floors, from the ground up: `drain`, `failure` < `limits` < `buffer` < `connect` < `balance`, `observe` < `route` < `tunnel` < `http` <
//! `forward` < `listener` < `config` < `worker` < `start`.
//!
//! | room | what it does |
//! | --- | --- |
//! | [`start`] | threads, and what a running data path is told and tells |
//! | [`worker`] | builds the parts of one thread, each with what it uses |
//! | [`listener`] | accepts connections, authenticates other proxies, has the connection decided about and forwarded |
//! | [`forward`] | detects the protocol of a connection, and forwards it as HTTP or as a tunnel |
//! | [`http`] | HTTP/1 and HTTP/2 servers, the exchange of a request for its response, upgrades, local replies |
//! | [`tunnel`] | opaque bytes to an endpoint and back |
//! | [`observe`] | what requests, tunnels and refusals tell metrics and logs |
//! | [`route`] | **decides**: who may come in, where a connection and each of its requests go, whether a request is retried |
//! | [`balance`] | which endpoints of a Service are eligible, and which of them is next |
//! | [`connect`] | endpoints, their load and ejection, and the connections to them |
//! | [`buffer`] | bytes on their way between two connections, and how many may wait |
//! | [`limits`] | how many connections, handshakes, streams and bytes of a head are taken |
//! | [`drain`] | ending in order |
//! | [`failure`] | why a request or connection was refused |
//!
//! Whoever adds a filter or a policy for requests does so in [`route`], where nothing is read or written; bytes are moved in [`http`],
//! [`tunnel`] and [`buffer`].

mod balance;
mod buffer;
pub mod config;
mod connect;
pub mod drain;
mod failure;
mod forward;
mod http;
mod limits;
mod listener;
mod observe;
mod route;
pub mod start;
mod tunnel;
mod worker;
