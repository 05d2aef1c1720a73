//! A rotation while everything else goes on: applications talk, replicas of the operator die, pods come and go; and what must hold then.

use anyhow::{Context as _, Result, ensure};
use bowline_crds::mesh::{RotationCause, RotationKind};
use serde_json::json;

use super::chain;
use super::disturbance::{self, Plan, Progress};
use super::fleet::{Fleet, Size};
use super::rotation::{self, Steady};
use super::secrets::Search;
use super::shared::SOON;
use super::timeline::{Seconds, Timeline};
use crate::context::{Context, Figures};

/// Rotations at most, where they are too fast for what shall disturb them.
const MOST_ROUNDS: u32 = 10;

/// How a rotation is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// By this annotation.
    Annotation(&'static str),
    /// By this field of `spec.certificates.rotation`.
    Field(&'static str),
}

/// What is rotated, and among whom.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name of the Mesh and of the namespace.
    pub mesh: &'static str,
    /// What is replaced.
    pub kind: RotationKind,
    /// How it is asked for.
    pub ask: Ask,
    /// Who talks.
    pub size: Size,
    /// At least so many pods.
    pub pods: usize,
    /// Rotations, one after the other; more, if they are over before enough was disturbed.
    pub rounds: u32,
    /// What happens meanwhile.
    pub plan: Plan,
}

/// Carries it out; no request fails, no stream is lost, nothing restarts, and no key shows anywhere.
///
/// # Errors
/// When anything of that is not so.
pub async fn run(cx: &Context, case: Case) -> Result<Figures> {
    let first = rotation::mesh(cx, case.mesh, json!({})).await?;
    let ns = cx.temp_ns(case.mesh, Some(case.mesh)).await?;
    let fleet = Fleet::deploy(cx, &ns, case.size).await?;
    let pods = fleet.spans(case.pods).await?;
    let mut search = Search::default();
    search.learn(cx).await?;
    fleet.start().await?;
    let progress = Progress::default();
    let rounds = async {
        let (mut old, mut slowest, mut done) = (first, Seconds::default(), 0);
        // One that was over before anybody was killed proves little.
        while done < case.rounds || done < MOST_ROUNDS && !progress.is_enough() {
            done += 1;
            let round = round(cx, case, &old, &mut search).await;
            let (new, seconds) = round.with_context(|| format!("rotation {done}"))?;
            (old, slowest) = (new, slowest.or_slower(seconds));
        }
        Ok((old, slowest, done))
    };
    let ((new, seconds, done), disturbed) = disturbance::during(cx, &ns, case.plan, &progress, rounds).await?;
    disturbed.enough()?;
    let shaken = chain::ends_at(cx, case.mesh, &ns, "server", &new.root).await?;
    let load = fleet.stop().await?;
    let restarts = fleet.no_restarts().await?;
    super::mesh::ready(cx, case.mesh, SOON).await?;
    ensure!(rotation::steady(cx, case.mesh, SOON).await? == new, "something changed by itself after the rotation");

    for (place, log) in &disturbed.logs {
        search.look(place, log);
    }
    search.look_everywhere(cx, &[ns]).await?;
    let figures = search.nothing_found(load.figures(Figures::new()))?;
    super::mesh::delete(cx, case.mesh).await?;
    let figures = seconds.figures(disturbed.figures(figures));
    Ok(figures
        .with("container_restarts", restarts)
        .with("rotations", done)
        .with("pods", pods)
        .with("fresh_handshakes", shaken))
}

async fn round(cx: &Context, case: Case, old: &Steady, search: &mut Search) -> Result<(Steady, Seconds)> {
    let (mesh, nonce) = (case.mesh, rotation::nonce()?);
    let timeline = Timeline::start(cx, mesh).await?;
    match case.ask {
        Ask::Annotation(annotation) => rotation::annotate(cx, mesh, annotation, &nonce).await?,
        Ask::Field(field) => rotation::change(cx, mesh, json!({ "rotation": { field: nonce } })).await?,
    }
    let new = match case.kind {
        RotationKind::Root => rotation::root_replaced(cx, mesh, old).await?,
        RotationKind::Issuer => rotation::issuer_replaced(cx, mesh, old).await?,
    };
    // The keys of those that are gone by now were learnt before.
    search.learn(cx).await?;
    let history = timeline.stop(cx).await?;
    search.look("the Mesh's status while it rotated", &history.text());
    history.only(case.kind, RotationCause::Requested)?;
    let replaced = match case.kind {
        RotationKind::Root => &old.root,
        RotationKind::Issuer => &old.issuer,
    };
    Ok((new, history.seconds(case.kind, replaced)?))
}
