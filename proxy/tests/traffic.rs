//! Two data planes and an application on loopback: everything that applications speak, through both, with real sockets and
//! certificates.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "traffic/application.rs"]
mod application;
#[path = "traffic/balancing.rs"]
mod balancing;
#[path = "traffic/bodies.rs"]
mod bodies;
#[path = "traffic/bounds.rs"]
mod bounds;
#[path = "traffic/ending.rs"]
mod ending;
#[path = "traffic/floods.rs"]
mod floods;
#[path = "traffic/http1.rs"]
mod http1;
#[path = "traffic/http2.rs"]
mod http2;
#[path = "traffic/mesh.rs"]
mod mesh;
#[path = "traffic/near.rs"]
mod near;
#[path = "traffic/opaque.rs"]
mod opaque;
#[path = "traffic/policy.rs"]
mod policy;
#[path = "traffic/resets.rs"]
mod resets;
#[path = "traffic/retries.rs"]
mod retries;
#[path = "traffic/rotation.rs"]
mod rotation;
#[path = "traffic/trust.rs"]
mod trust;
#[path = "traffic/unread.rs"]
mod unread;
#[path = "traffic/upgrades.rs"]
mod upgrades;
