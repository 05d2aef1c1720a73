//! The certificate authority of a mesh under load moves: from the operator's own to a Secret with an issuing CA whose root is offline, to
//! cert-manager, which then issues anew, and back. Each move is a rotation, no request fails, and each time every pod proves itself below
//! the root that it should.
//!
//! Seen to fail: the fingerprints are known beforehand, from who made the root; a pod whose chain ends elsewhere fails the handshake.

use anyhow::{Context as _, Result, ensure};
use bowline_crds::mesh::{RotationCause, RotationKind};
use serde_json::{Value, json};

use crate::context::{Context, Figures};
use crate::meshed::fleet::{Fleet, Size};
use crate::meshed::offline_root::OfflineRoot;
use crate::meshed::rotation::{self, Steady};
use crate::meshed::secrets::Search;
use crate::meshed::timeline::Timeline;
use crate::meshed::{self, SOON, cert_manager, chain};
use e2e::cluster::install::NAMESPACE;

const MESH: &str = "e2e-rotation-sources";
/// The Secret, and the Certificate, that the operator as shipped may read.
const SECRET: &str = "bowline-issuer";

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    let start = rotation::mesh(cx, MESH, json!({})).await?;
    cx.kubectl(&["delete", "secret", SECRET, "--namespace", NAMESPACE, "--ignore-not-found"]).await?;
    let outcome = moves(cx, start).await;
    if outcome.is_ok() {
        meshed::delete(cx, MESH).await?;
        cert_manager::remove(cx).await?;
        cx.kubectl(&["delete", "secret", SECRET, "--namespace", NAMESPACE, "--ignore-not-found"]).await?;
    }
    outcome
}

/// A mesh that moves.
struct Moving<'a> {
    cx: &'a Context,
    namespace: String,
    at: Steady,
    search: Search,
    figures: Figures,
}

async fn moves(cx: &Context, at: Steady) -> Result<Figures> {
    let namespace = cx.temp_ns(MESH, Some(MESH)).await?;
    let fleet = Fleet::deploy(cx, &namespace, Size { servers: 2, clients: 2, guests: 1, rate: 25 }).await?;
    let authority = cert_manager::install(cx).await.context("cert-manager")?;
    fleet.start().await?;
    let mut search = Search::default();
    search.learn(cx).await?;
    let mut moving = Moving { cx, namespace, at, search, figures: Figures::new() };
    chain::ends_at(cx, MESH, &moving.namespace, "server", &moving.at.root).await.context("the operator's own")?;

    let offline = OfflineRoot::new("An offline root")?;
    let intermediate = offline.intermediate("An issuing CA for the cluster", SECRET)?;
    cx.create_yaml(&intermediate.secret.to_string()).await?;
    let secret = json!({ "secret": { "name": SECRET }, "certManager": null });
    moving.to("secret", secret, RotationKind::Root).await.context("to the Secret")?;
    let at = &moving.at;
    ensure!(at.root == offline.fingerprint() && at.issuer == intermediate.fingerprint, "others are active: {at:?}");

    let reference = json!({ "name": cert_manager::ISSUER, "kind": "ClusterIssuer" });
    let manager = json!({ "secret": null, "certManager": { "issuerRef": reference } });
    moving.to("cert_manager", manager, RotationKind::Root).await.context("to cert-manager")?;
    ensure!(moving.at.root == authority, "the root is {}, cert-manager's is {authority}", moving.at.root);
    moving.renew().await.context("an issuing CA that cert-manager issued anew")?;

    let own = json!({ "secret": null, "certManager": null });
    moving.to("built_in", own, RotationKind::Root).await.context("back to the operator's own")?;
    ensure!(moving.at.root != authority && moving.at.root != offline.fingerprint(), "the root is still another's");

    let load = fleet.stop().await.context("while the authority moved")?;
    let restarts = fleet.no_restarts().await?;
    moving.search.look_everywhere(cx, &[moving.namespace]).await?;
    let figures = moving.search.nothing_found(load.figures(moving.figures))?;
    Ok(figures.with("container_restarts", restarts))
}

impl Moving<'_> {
    /// Changes the source, and waits until what it offers is all that is there.
    async fn to(&mut self, name: &str, source: Value, kind: RotationKind) -> Result<()> {
        let timeline = Timeline::start(self.cx, MESH).await?;
        rotation::change(self.cx, MESH, json!({ "source": source })).await?;
        self.arrived(name, timeline, kind).await
    }

    /// cert-manager issues the issuing CA anew: one below the same root.
    async fn renew(&mut self) -> Result<()> {
        let timeline = Timeline::start(self.cx, MESH).await?;
        cert_manager::renew(self.cx, SECRET, NAMESPACE).await?;
        self.arrived("renewed", timeline, RotationKind::Issuer).await
    }

    async fn arrived(&mut self, name: &str, timeline: Timeline, kind: RotationKind) -> Result<()> {
        let (cx, old) = (self.cx, &self.at);
        let new = match kind {
            RotationKind::Root => rotation::root_replaced(cx, MESH, old).await?,
            RotationKind::Issuer => rotation::issuer_replaced(cx, MESH, old).await?,
        };
        let seconds = timeline.elapsed().as_secs();
        self.search.learn(cx).await?;
        let history = timeline.stop(cx).await?;
        history.only(kind, RotationCause::Source)?;
        self.search.look("the Mesh's status while its authority moved", &history.text());
        chain::ends_at(cx, MESH, &self.namespace, "server", &new.root).await?;
        meshed::ready(cx, MESH, SOON).await?;
        self.at = new;
        self.figures.set(&format!("seconds_{name}"), seconds);
        Ok(())
    }
}
