//! The wire protocol: bindings generated from `proto/bowline.proto`, checked in; `tests/proto_drift.rs` regenerates them.

#![allow(missing_docs, unreachable_pub, clippy::all)]

include!("proto/bowline.v1.rs");
