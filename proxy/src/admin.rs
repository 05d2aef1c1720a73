//! What the proxy tells of itself, and the probes that it carries out for the kubelet. HTTP requests on the admin, metrics and probe ports
//! ([`ports`]) come in; readiness, the configuration in use, metrics and results of probes go out.

mod config_dump;
pub mod endpoints;
mod metrics;
pub mod ports;
pub mod probes;
mod process_metrics;
pub mod readiness;
pub mod server;
