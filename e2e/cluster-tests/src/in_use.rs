//! Whether somebody uses a mesh on a cluster that is not ours: tests and demo change Meshes and stop the operator, which such a mesh would
//! suffer from.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bowline_crds::Mesh;
use bowline_operator::cluster::membership::{Membership, MeshSelectors, exempt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use e2e::cluster::install::NAMESPACE;
use e2e::host::env::Env;

/// Namespaces that tests and demo make.
const OURS: [&str; 2] = ["e2e-", "bowline-demo"];

/// With `KUBECONFIG` set: makes sure that no namespace is a member of a mesh but those of tests and of the demo.
///
/// # Errors
/// When there are others; names them and says what to do. And when the cluster does not answer.
pub async fn refuse(env: &Env) -> Result<()> {
    let Some(kubeconfig) = &env.kubeconfig else { return Ok(()) };
    let client = Client::try_default().await.context("KUBECONFIG cannot be used")?;
    let members = members(&client).await.context("cannot tell whether somebody uses a mesh on this cluster")?;
    if members.is_empty() {
        return Ok(());
    }
    bail!(
        "a mesh is in use on the cluster of KUBECONFIG={}, in {}: tests and demo change the Mesh `default` and stop the operator, which \
         members would suffer from. Use another cluster (without KUBECONFIG one is made on this machine), or let these leave first: \
         `kubectl label namespace {} bowline.dev/mesh-`, and restart their pods",
        kubeconfig.display(),
        members.join(", "),
        members.join(" ")
    )
}

async fn members(client: &Client) -> Result<Vec<String>> {
    let all = ListParams::default();
    let meshes = match Api::<Mesh>::all(client.clone()).list(&all).await {
        Ok(list) => list.items,
        // Nobody has installed anything yet.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(vec![]),
        Err(e) => return Err(e.into()),
    };
    let meshes: Vec<_> = meshes.into_iter().map(Arc::new).collect();
    Ok(foreign(&meshes, &Api::<Namespace>::all(client.clone()).list(&all).await?.items))
}

/// The namespaces that belong to a Mesh, or name one, and are none of ours.
fn foreign(meshes: &[Arc<Mesh>], namespaces: &[Namespace]) -> Vec<String> {
    let roster = MeshSelectors::new(meshes, &Arc::new(exempt(NAMESPACE)));
    let joined = |n: &&Namespace| !matches!(roster.membership(&n.metadata), Membership::None);
    let names = namespaces.iter().filter(joined).map(|n| n.name_any());
    names.filter(|name| !OURS.iter().any(|ours| name.starts_with(ours))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_found_by_label_and_by_selector_and_ours_are_not_counted() {
        let mesh = |name: &str, spec| {
            let object = json!({ "apiVersion": "bowline.dev/v1alpha1", "kind": "Mesh", "metadata": { "name": name }, "spec": spec });
            Arc::new(serde_json::from_value::<Mesh>(object).unwrap())
        };
        let namespace = |name: &str, labels| {
            let object = json!({ "metadata": { "name": name, "labels": labels } });
            serde_json::from_value::<Namespace>(object).unwrap()
        };
        let member = json!({ "bowline.dev/mesh": "default" });
        let namespaces = [
            namespace("shop", member.clone()),
            namespace("e2e-install", member.clone()),
            namespace("bowline-demo", member),
            namespace("team", json!({ "team": "red" })),
            namespace("early", json!({ "bowline.dev/mesh": "not-yet-there" })),
            namespace("other", json!({})),
            namespace("kube-system", json!({ "team": "red" })),
        ];
        let default = mesh("default", json!({}));
        assert_eq!(foreign(&[Arc::clone(&default)], &namespaces), ["shop", "early"]);
        let selector = json!({ "injection": { "namespaceSelector": { "matchLabels": { "team": "red" } } } });
        assert_eq!(foreign(&[default, mesh("second", selector)], &namespaces), ["shop", "team", "early"]);
    }
}
