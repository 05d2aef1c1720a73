//! gRPC bindings, checked in; `tests/proto_drift.rs` regenerates them.

/// The test application's own service.
#[allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic)]
pub(crate) mod test {
    include!("proto/bowline.test.v1.rs");
}

/// gRPC health checking.
#[allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic)]
pub(crate) mod health {
    include!("proto/grpc.health.v1.rs");
}
