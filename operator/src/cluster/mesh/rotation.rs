//! What users ask of the rotations of a Mesh's CA, by field or annotation.

use std::collections::BTreeSet;

use bowline_crds::{
    Mesh,
    names::{ABORT_ROTATION_ANNOTATION, DISTRUST_ANNOTATION, ROTATE_ISSUER_ANNOTATION, ROTATE_ROOT_ANNOTATION},
};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use super::invalid::InvalidSpec;

/// Texts by which users ask for something; see `spec.certificates.rotation`. One that was not there before asks.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq, Hash)]
pub struct Requests {
    /// For a new root.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub root: BTreeSet<String>,
    /// For a new issuing CA.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub issuer: BTreeSet<String>,
    /// For an end of the rotation under way.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub abort: BTreeSet<String>,
}

/// Longest text of a request that is kept, in characters.
const MAX_REQUEST: usize = 63;

/// What users ask for.
#[must_use]
pub fn requests(mesh: &Mesh) -> Requests {
    let rotation = &mesh.spec.certificates.rotation;
    let asked = |field: &Option<String>, annotation: &str| {
        let texts = field.iter().chain(mesh.annotations().get(annotation));
        texts.filter(|t| !t.is_empty()).map(|t| t.chars().take(MAX_REQUEST).collect()).collect()
    };
    Requests {
        root: asked(&rotation.root, ROTATE_ROOT_ANNOTATION),
        issuer: asked(&rotation.issuer, ROTATE_ISSUER_ANNOTATION),
        abort: asked(&rotation.abort, ABORT_ROTATION_ANNOTATION),
    }
}

/// Roots that users say are compromised, by field or annotation.
///
/// # Errors
/// When one is no fingerprint.
pub fn distrust(mesh: &Mesh) -> Result<Vec<String>, InvalidSpec> {
    let annotated = mesh.annotations().get(DISTRUST_ANNOTATION).map_or("", String::as_str).split(',').map(str::trim);
    let annotated = annotated.filter(|t| !t.is_empty()).map(|t| (DISTRUST_ANNOTATION, t));
    let listed = mesh.spec.certificates.rotation.distrust.iter();
    let listed = listed.map(|t| ("spec.certificates.rotation.distrust", t.as_str()));
    let mut distrust = Vec::new();
    for (field, text) in annotated.chain(listed) {
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidSpec::Fingerprint { field, found: text.chars().take(80).collect() });
        }
        distrust.push(text.to_owned());
    }
    Ok(distrust)
}
