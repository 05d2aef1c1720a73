//! The certificate authority is lost with its Secret, its Mesh and the operator, and comes back from a backup as the documentation says:
//! the same root, pods that ran all along and talked to each other over fresh connections, and new ones that understand them.
//!
//! Seen to fail: an operator that made a new root changes the fingerprint, and the new pods and the old refuse each other.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bowline_crds::Mesh;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::json;

use crate::context::{Context, Figures};
use crate::meshed::fleet::{Fleet, Size};
use crate::meshed::{self, App, Caller, SOON, app, chain, operator, rotation};
use e2e::cluster::install::NAMESPACE;

const MESH: &str = "e2e-backup";
const SECRET: &str = "bowline-ca";

/// Requests that are to be answered while there is no authority.
const REQUESTS: u64 = 500;

/// What `kubectl get -o yaml` printed.
struct Backup {
    secret: String,
    mesh: String,
}

/// Runs the test; puts the Secret back, whatever happens: other Meshes live by it too.
pub async fn run(cx: &Context) -> Result<Figures> {
    let old = rotation::mesh(cx, MESH, json!({})).await?;
    let ns = cx.temp_ns(MESH, Some(MESH)).await?;
    let fleet = Fleet::deploy(cx, &ns, Size { servers: 2, clients: 2, guests: 1, rate: 25 }).await?;
    fleet.start().await?;
    let backup = Backup {
        secret: cx.kubectl(&["get", "secret", SECRET, "--namespace", NAMESPACE, "--output", "yaml"]).await?,
        mesh: cx.kubectl(&["get", "mesh", MESH, "--output", "yaml"]).await?,
    };
    let lost = Instant::now();
    let outcome = lose_and_restore(cx, &fleet, &backup).await;
    let secret = Api::<Secret>::namespaced(cx.client(), NAMESPACE).get_opt(SECRET).await?;
    if secret.is_none() {
        cx.create_yaml(&backup.secret).await.context("the Secret of all Meshes cannot be put back")?;
    }
    operator::ensure(cx).await?;
    outcome?;
    meshed::ready(cx, MESH, SOON).await?;
    let seconds = lost.elapsed().as_secs();

    let new = rotation::steady(cx, MESH, SOON).await?;
    ensure!(new.root == old.root && new.issuer == old.issuer, "{old:?} came back as {new:?}");
    ensure!(
        new.sequence >= old.sequence,
        "the sequence of bundles went back from {} to {}",
        old.sequence,
        new.sequence
    );
    app::deploy(cx, &ns, &[App::new("newcomer")]).await.context("a pod that is new after the restore")?;
    Caller::of(cx, &ns, "newcomer").await?.get("http://server/").await.context("from a new pod to an old one")?;
    let client = Caller::of(cx, &ns, "client").await?;
    // Whoever has just lost its control plane may take a quarter of a minute to come back to it.
    let answer = client.call(&["get", "http://newcomer/", "--until", "60"]).await?;
    ensure!(answer["status"] == 200, "a new pod does not understand an old one: {answer}");
    let shaken = chain::ends_at(cx, MESH, &ns, "server", &old.root).await?;
    let load = fleet.stop().await.context("while the authority was lost and came back")?;
    let restarts = fleet.no_restarts().await?;
    // The shared Mesh was in the same Secret.
    meshed::ready(cx, meshed::MESH, SOON).await?;
    meshed::delete(cx, MESH).await?;
    Ok(load
        .figures(Figures::new())
        .with("container_restarts", restarts)
        .with("fresh_handshakes", shaken)
        .with("seconds_restored", seconds))
}

async fn lose_and_restore(cx: &Context, fleet: &Fleet<'_>, backup: &Backup) -> Result<()> {
    operator::remove(cx).await?;
    cx.kubectl(&["delete", "secret", SECRET, "--namespace", NAMESPACE]).await?;
    cx.kubectl(&["delete", "mesh", MESH, "--wait=false"]).await?;
    let none = r#"[{"op":"remove","path":"/metadata/finalizers"}]"#;
    cx.kubectl(&["patch", "mesh", MESH, "--type=json", "--patch", none]).await?;
    cx.eventually(SOON, "the Mesh does not go", || async {
        ensure!(Api::<Mesh>::all(cx.client()).get_opt(MESH).await?.is_none(), "it is there");
        Ok(())
    })
    .await?;

    // Applications go on without any of it.
    let before = fleet.load().await?.succeeded;
    cx.eventually(SOON, "the load stands still", || async {
        let done = fleet.load().await?.succeeded - before;
        ensure!(done >= REQUESTS, "{done} requests without an authority");
        Ok(())
    })
    .await?;

    // The Secret first: an operator that finds a Mesh without one would not know what it was.
    cx.create_yaml(&backup.secret).await.context("the Secret from the backup")?;
    cx.create_yaml(&backup.mesh).await.context("the Mesh from the backup")?;
    operator::scale(cx, operator::REPLICAS).await
}
