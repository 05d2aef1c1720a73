//! What replicas of the operator tell one another: with which state of a Mesh's CA they live, and what the proxies on their streams
//! reported. The leader asks all of them before it takes a step of a rotation. [`local`] knows the answer, [`service`] gives it, [`client`]
//! asks for it.

pub mod client;
pub mod local;
pub mod service;
