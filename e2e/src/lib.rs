//! The machinery behind `cargo e2e`: a throw-away cluster on this machine, images without a registry, tests on a real Kubernetes.

pub mod cluster;
pub mod env;
pub mod images;
pub mod install;
pub mod lock;
pub mod prereq;
pub mod programs;
pub mod progress;
pub mod shell;
