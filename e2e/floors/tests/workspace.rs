//! Every crate of the workspace has floors. What is wrong is printed with the lines that make it so, and with what to do.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

#[test]
fn every_crate_has_floors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let members = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.contains(&"operator") && members.contains(&"proxy"), "members of the workspace: {members:?}");
    let mut said = Vec::new();
    for member in members {
        let modules = floors::read_crate(&root.join(member).join("src")).unwrap();
        for fault in floors::check(&modules) {
            said.push(format!("{member}: {fault}").replace(&format!("{}/", root.display()), ""));
        }
    }
    assert!(said.is_empty(), "{} faults:\n\n{}\n", said.len(), said.join("\n\n"));
}
