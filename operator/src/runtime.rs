//! What every part stands on: the client, the settings of the process, its listeners and its end.

pub mod client;
pub mod config;
pub mod listener;
pub mod rbac;
pub mod readiness;
pub mod shutdown;
