//! The checked-in manifests are what the types say. `UPDATE=1 cargo test -p bowline-crds --test manifest_drift` writes them anew.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use bowline_crds::Mesh;
use kube::CustomResourceExt;

#[test]
fn manifests_are_current() {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/crd/bowline.dev_meshes.yaml");
    let made = format!(
        "# Made from crds/src by `UPDATE=1 cargo test -p bowline-crds --test manifest_drift`; do not edit.\n{}",
        serde_yaml::to_string(&Mesh::crd()).unwrap()
    );
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(checked_in.parent().unwrap()).unwrap();
        fs::write(&checked_in, &made).unwrap();
    }
    assert!(
        made == fs::read_to_string(&checked_in).unwrap_or_default(),
        "manifests are stale: run `UPDATE=1 cargo test -p bowline-crds --test manifest_drift`"
    );
}
