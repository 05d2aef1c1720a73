//! What every replica serves: reviews of pods, signing requests, control streams and scrapes come in; patches, leaves, configuration and
//! metrics go out.

pub mod admin;
pub mod certificate;
pub mod control;
pub mod grpc;
pub mod identity;
pub mod inject;
pub mod peer;
pub mod replicas;
pub mod reports;
pub mod tls;
