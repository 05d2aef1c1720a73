//! The test application's checked-in bindings are what `proto/*.proto` says. `UPDATE=1 cargo test -p bowline-test-app --test proto_drift`
//! writes them anew.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

#[test]
fn bindings_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("proto");
    fs::create_dir_all(&out).unwrap();
    let descriptors = protox::compile(["testapp.proto", "health.proto"], [root.join("proto")]).unwrap();
    tonic_prost_build::configure().out_dir(&out).compile_fds(descriptors).unwrap();
    for name in ["bowline.test.v1.rs", "grpc.health.v1.rs"] {
        let made = fs::read_to_string(out.join(name)).unwrap();
        let checked_in = root.join("src/proto").join(name);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&checked_in, &made).unwrap();
        }
        assert!(
            made == fs::read_to_string(&checked_in).unwrap_or_default(),
            "{name} is stale: run `UPDATE=1 cargo test -p bowline-test-app --test proto_drift`"
        );
    }
}
