//! Tells namespaces that name a Mesh that does not exist: no Mesh has a status in which it could stand.

use std::{collections::BTreeMap, sync::Arc};

use bowline_crds::{
    conditions::reasons,
    names::{INJECT_LABEL, MESH_LABEL},
};
use kube::ResourceExt;

use super::{apply, events::MeshEvent};
use crate::cluster::{
    cache::Cache,
    deletion::staying,
    membership::{Membership, Registry},
};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::runtime::events::Recorder;

/// Runs for as long as it is polled; leader only.
pub async fn run(registry: Registry, all: Cache<Namespace>, pods: Cache<Pod>, recorder: Recorder) {
    let mut reported = BTreeMap::new();
    let (mut meshes, mut namespaces) = (registry.subscribe(), all.subscribe());
    loop {
        let asked = !staying(&registry, &pods).is_empty();
        let unknown = unknown(&registry, &all.all(), asked);
        let known: Vec<String> = registry.all().iter().map(|m| m.name_any()).collect();
        for (name, about) in &unknown {
            if reported.get(name) != Some(about)
                && let Some(namespace) = all.get(name)
            {
                apply::events(&recorder, namespace.as_ref(), &[event(about, &known)]).await;
            }
        }
        reported = unknown;
        let changed = tokio::select! {
            changed = meshes.changed() => changed,
            changed = namespaces.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What a namespace is reported of.
#[derive(Debug, PartialEq, Eq)]
struct Unknown {
    /// The Mesh that does not exist.
    mesh: String,
    /// Whether the API server asks about its pods, which it does while there is any Mesh.
    asked: bool,
}

/// Namespaces that name a Mesh that does not exist.
fn unknown(registry: &Registry, namespaces: &[Arc<Namespace>], asked: bool) -> BTreeMap<String, Unknown> {
    let selectors = registry.selectors();
    let judged = namespaces.iter().map(|n| (n.name_any(), selectors.membership(&n.metadata)));
    let unknown = judged.filter_map(|(name, m)| match m {
        Membership::Unknown(mesh) => Some((name, Unknown { mesh, asked })),
        _ => None,
    });
    unknown.collect()
}

fn event(Unknown { mesh, asked }: &Unknown, known: &[String]) -> MeshEvent {
    let known = if known.is_empty() { "there is none".to_owned() } else { format!("there are {}", known.join(", ")) };
    let consequence = if *asked {
        format!("pods of this namespace cannot be created unless labelled {INJECT_LABEL}=false")
    } else {
        "pods of this namespace start without a sidecar and speak plaintext".to_owned()
    };
    let message = format!(
        "label {MESH_LABEL} names Mesh {mesh:?}, which does not exist ({known}): create it or correct the label; until then \
         {consequence}"
    );
    MeshEvent { warning: true, reason: reasons::UNKNOWN_MESH.into(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_to_pods_is_told_as_it_is() {
        let about = |asked| Unknown { mesh: "x".into(), asked };
        let other = event(&about(true), &["default".into()]).message;
        assert!(other.contains("there are default") && other.contains("cannot be created unless"), "{other}");
        let none = event(&about(false), &[]).message;
        assert!(none.contains("there is none") && none.contains("plaintext") && !none.contains("cannot"), "{none}");
    }
}
