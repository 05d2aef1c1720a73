//! The data path: redirected connections come in, and leave as requests and tunnels to endpoints.

mod carry;
mod cork;
mod detect;
pub mod drain;
mod http;
mod inbound;
mod listen;
mod memory;
mod outbound;
mod places;
mod pool;
pub mod start;
mod tcp;
mod worker;
