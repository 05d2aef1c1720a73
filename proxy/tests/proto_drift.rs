//! The checked-in bindings are what `proto/bowline.proto` says. `UPDATE=1 cargo test -p bowline-proxy --test proto_drift`
//! writes them anew.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

#[test]
fn bindings_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("proto");
    fs::create_dir_all(&out).unwrap();
    let descriptors = protox::compile(["bowline.proto"], [root.join("proto")]).unwrap();
    let mut prost = prost_build::Config::new();
    prost.bytes([".bowline.v1.Resource.body", ".bowline.v1.SignRequest.csr_der"]);
    prost.out_dir(&out);
    tonic_prost_build::configure().out_dir(&out).compile_fds_with_config(descriptors, prost).unwrap();
    let made = fs::read_to_string(out.join("bowline.v1.rs")).unwrap();
    let checked_in = root.join("src/contract/proto/bowline.v1.rs");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&checked_in, &made).unwrap();
    }
    assert!(
        made == fs::read_to_string(&checked_in).unwrap_or_default(),
        "proto bindings are stale: run `UPDATE=1 cargo test -p bowline-proxy --test proto_drift`"
    );
}
