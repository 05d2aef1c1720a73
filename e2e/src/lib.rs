//! The machinery behind `cargo e2e`: a throw-away cluster on this machine, images without a registry, tests on a real Kubernetes.

pub mod bench;
pub mod cluster;
pub mod context;
pub mod demo;
pub mod env;
pub mod images;
pub mod in_use;
pub mod install;
pub mod lock;
pub mod meshed;
pub mod prereq;
pub mod programs;
pub mod progress;
pub mod report;
pub mod run_tests;
pub mod shell;
pub mod tests;
pub mod verify;
