//! Decisions: the address or port of a connection, the identity of its peer, the head of a request and the table come in; out comes where it
//! goes, whether it may, and whether it is retried. Nothing is read from a connection or written to one here.

pub(crate) mod attempts;
pub(crate) mod connection;
pub(crate) mod inbound;
pub(crate) mod outbound;
pub(crate) mod permission;
pub(crate) mod pod;
pub(crate) mod request;
pub(crate) mod retry;
