//! HTTP: connections that speak it come in, their requests leave for the endpoint that the route picks, and responses come back.
//!
//! [`server`] takes requests from clients, [`exchange`] has one answered by an endpoint, [`upgrade`] takes over where a request becomes a
//! tunnel, and [`local_reply`] is what the proxy answers itself.
//!
//! Bodies have one type each way, so nothing is boxed.

pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod headers;
pub(crate) mod local_reply;
pub(crate) mod reply;
pub(crate) mod response_body;
pub(crate) mod server;
pub(crate) mod upgrade;
