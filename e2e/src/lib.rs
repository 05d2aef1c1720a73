//! The machinery behind `cargo e2e`: a throw-away cluster on this machine, images without a registry, a demo, and the stages of a verification.
//!
//! Floors, from the ground up: `host` < `report` < `programs` < `nodes` < `images` < `cluster` < `bench`, `demo`, `verify`. It
//! speaks to the cluster with kubectl and links no client, no TLS, and nothing of operator and proxy, so that it is compiled in seconds; the
//! tests on the cluster (`e2e/cluster-tests`) and the rotation benchmark (`e2e/bench/rotation`) are programs of their own above it.

pub mod bench;
pub mod cluster;
pub mod demo;
pub mod host;
pub mod images;
pub mod nodes;
pub mod programs;
pub mod report;
pub mod verify;
