//! What every replica serves: reviews of pods, signing requests, control streams and scrapes come in; patches, leaves, configuration and
//! metrics go out.

pub mod admin;
pub mod control;
pub mod identity;
pub mod inject;
