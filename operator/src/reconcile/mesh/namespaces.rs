//! Tells namespaces that name a Mesh that does not exist: no Mesh has a status in which it could stand.

use std::{collections::BTreeMap, sync::Arc};

use bowline_crds::{
    conditions::reasons,
    names::{INJECT_LABEL, MESH_LABEL},
};
use kube::ResourceExt;

use super::{apply, news::News};
use crate::{cluster::membership::Membership, reconcile::webhook::configuration, runtime::context::Ctx};

/// Runs for as long as it is polled; leader only.
pub async fn run(ctx: Arc<Ctx>) {
    let mut told = BTreeMap::new();
    let (mut meshes, mut namespaces) = (ctx.registry.subscribe(), ctx.namespaces.subscribe());
    loop {
        let unknown = unknown(&ctx);
        let known: Vec<String> = ctx.registry.all().iter().map(|m| m.name_any()).collect();
        for (name, about) in &unknown {
            if told.get(name) != Some(about)
                && let Some(namespace) = ctx.namespaces.get(name)
            {
                apply::events(&ctx.recorder, namespace.as_ref(), &[news(about, &known)]).await;
            }
        }
        told = unknown;
        let changed = tokio::select! {
            changed = meshes.changed() => changed,
            changed = namespaces.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What a namespace is told of.
#[derive(Debug, PartialEq, Eq)]
struct Unknown {
    /// The Mesh that does not exist.
    mesh: String,
    /// Whether the API server asks about its pods, which it does while there is any Mesh.
    asked: bool,
}

/// Namespaces that name a Mesh that does not exist.
fn unknown(ctx: &Ctx) -> BTreeMap<String, Unknown> {
    let (all, selectors) = (ctx.namespaces.all(), ctx.registry.selectors());
    let asked = configuration::wanted(ctx, "").is_some();
    let judged = all.iter().map(|n| (n.name_any(), selectors.membership(&n.metadata)));
    let unknown = judged.filter_map(|(name, m)| match m {
        Membership::Unknown(mesh) => Some((name, Unknown { mesh, asked })),
        _ => None,
    });
    unknown.collect()
}

fn news(Unknown { mesh, asked }: &Unknown, known: &[String]) -> News {
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
    News { warning: true, reason: reasons::UNKNOWN_MESH.into(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_to_pods_is_told_as_it_is() {
        let about = |asked| Unknown { mesh: "x".into(), asked };
        let other = news(&about(true), &["default".into()]).message;
        assert!(other.contains("there are default") && other.contains("cannot be created unless"), "{other}");
        let none = news(&about(false), &[]).message;
        assert!(none.contains("there is none") && none.contains("plaintext") && !none.contains("cannot"), "{none}");
    }
}
