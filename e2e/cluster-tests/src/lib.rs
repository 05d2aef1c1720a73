//! The tests on a real cluster. In: a cluster with our images on its nodes, or what brings one up. Out: a verdict for each test, its figures,
//! and what a person needs to know when it failed.
//!
//! Floors, from the ground up: `context`, `in_use` < `meshed` < `tests` < `run`. What brings up a cluster is the crate `e2e`.

pub mod context;
pub mod in_use;
pub mod meshed;
pub mod run;
pub mod tests;
