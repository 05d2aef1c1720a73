//! The reconcilers against an API server in memory that refuses, conflicts, and loses answers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "api/leader.rs"]
mod leader;
#[path = "api/members.rs"]
mod members;
#[path = "api/mesh.rs"]
mod mesh;
#[path = "api/readiness.rs"]
mod readiness;
#[path = "api/rotation.rs"]
mod rotation;
#[path = "api/server.rs"]
mod server;
#[path = "api/watch.rs"]
mod watch;
#[path = "api/webhook.rs"]
mod webhook;
#[path = "api/world.rs"]
mod world;
