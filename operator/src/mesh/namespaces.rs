//! Tells namespaces that name a Mesh that does not exist: no Mesh has a status in which it could stand.

use std::{collections::BTreeMap, sync::Arc};

use bowline_crds::{
    conditions::reasons,
    names::{INJECT_LABEL, MESH_LABEL},
};
use kube::ResourceExt;

use super::{apply, news::News};
use crate::{context::Ctx, meshes::Membership};

/// Runs for as long as it is polled; leader only.
pub async fn run(ctx: Arc<Ctx>) {
    let mut told = BTreeMap::new();
    let (mut meshes, mut namespaces) = (ctx.registry.subscribe(), ctx.namespaces.subscribe());
    loop {
        let unknown = unknown(&ctx);
        for (name, mesh) in &unknown {
            if told.get(name) != Some(mesh)
                && let Some(namespace) = ctx.namespaces.get(name)
            {
                apply::events(&ctx.recorder, namespace.as_ref(), &[news(mesh, &ctx)]).await;
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

/// Namespaces and the Mesh that does not exist.
fn unknown(ctx: &Ctx) -> BTreeMap<String, String> {
    let all = ctx.namespaces.all();
    let judged = all.iter().map(|n| (n.name_any(), ctx.registry.for_namespace(n)));
    judged.filter_map(|(name, m)| if let Membership::Unknown(mesh) = m { Some((name, mesh)) } else { None }).collect()
}

fn news(mesh: &str, ctx: &Ctx) -> News {
    let known: Vec<String> = ctx.registry.all().iter().map(|m| m.name_any()).collect();
    let known = if known.is_empty() { "there is none".to_owned() } else { format!("there are {}", known.join(", ")) };
    let message = format!(
        "label {MESH_LABEL} names Mesh {mesh:?}, which does not exist ({known}): create it or correct the label; until then pods \
         of this namespace cannot be created unless labelled {INJECT_LABEL}=false"
    );
    News { warning: true, reason: reasons::UNKNOWN_MESH.into(), message }
}
