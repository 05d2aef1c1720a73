//! The samples that are shipped: the API server would take them as they are, and one of them shows every field.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeSet, fs, path::Path};

use bowline_crds::Mesh;
use kube::{CustomResourceExt, core::cel::validate_cel};
use serde_json::Value;

fn samples() -> Vec<(String, Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples");
    let files = fs::read_dir(directory).unwrap().map(|f| f.unwrap().path());
    let samples = files.filter(|f| f.extension().is_some_and(|e| e == "yaml") && !f.ends_with("kustomization.yaml"));
    let samples: Vec<_> = samples
        .map(|f| (f.display().to_string(), serde_yaml::from_str(&fs::read_to_string(&f).unwrap()).unwrap()))
        .collect();
    assert!(samples.len() >= 3, "{samples:?}");
    samples
}

/// Fields of `given` that `kept` lacks.
fn lost(given: &Value, kept: &Value, at: &str) -> Vec<String> {
    match given {
        Value::Object(fields) => {
            fields.iter().flat_map(|(name, value)| lost(value, &kept[name], &format!("{at}.{name}"))).collect()
        }
        other if other == kept => vec![],
        other => vec![format!("{at} = {other}, kept: {kept}")],
    }
}

#[test]
fn samples_are_valid_and_nothing_in_them_is_unknown() {
    for (file, sample) in samples() {
        let mesh: Mesh = serde_json::from_value(sample.clone()).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(validate_cel(&mesh).is_ok(), "{file}: {:?}", validate_cel(&mesh).err().map(|e| e.to_string()));
        let kept = serde_json::to_value(&mesh).unwrap();
        assert_eq!(lost(&sample["spec"], &kept["spec"], "spec"), Vec::<String>::new(), "{file}");
    }
}

fn properties(schema: &Value, at: &str, all: &mut BTreeSet<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}.{name}");
        // How a selector is written is Kubernetes' own.
        if name != "namespaceSelector" {
            properties(property, &path, all);
        }
        all.insert(path);
    }
}

#[test]
fn the_full_sample_shows_every_field() {
    let crd = serde_json::to_value(Mesh::crd()).unwrap();
    let mut all = BTreeSet::new();
    properties(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec", &mut all);
    let (_, full) = samples().into_iter().find(|(file, _)| file.ends_with("mesh-full.yaml")).unwrap();
    // Only one source is possible at a time.
    let (_, own_root) = samples().into_iter().find(|(file, _)| file.ends_with("mesh-own-root.yaml")).unwrap();
    for path in &all {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(
            full.pointer(&pointer).or_else(|| own_root.pointer(&pointer)).is_some(),
            "config/samples/mesh-full.yaml does not show {path}"
        );
    }
    assert!(all.len() > 10, "{all:?}");
}

#[test]
fn the_image_in_the_full_sample_is_of_this_version() {
    let (_, full) = samples().into_iter().find(|(file, _)| file.ends_with("mesh-full.yaml")).unwrap();
    let image = full["spec"]["proxy"]["image"].as_str().unwrap();
    assert_eq!(image, format!("localhost/bowline-proxy:{}", env!("CARGO_PKG_VERSION")));
}
