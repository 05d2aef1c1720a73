//! What every part stands on: flags, the service account and signals come in; settings, a client, TLS connections, readiness and the end
//! of the process go out.

pub mod client;
pub mod config;
pub mod listener;
pub mod readiness;
pub mod shutdown;
