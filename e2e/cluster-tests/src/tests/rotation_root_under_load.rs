//! The root of a mesh under load is replaced, twice, while replicas of the operator are killed and pods come and go: no request fails,
//! no stream is lost, no container restarts, and the new root is all that is left.
//!
//! Seen to fail: a root that signs before everybody trusts it, or goes before everybody has a leaf of the other one, shows in the load,
//! half of which makes fresh connections; a state of the Mesh without exactly one root that signs is seen by the timeline.

use anyhow::Result;
use bowline_crds::mesh::RotationKind;
use bowline_crds::names::ROTATE_ROOT_ANNOTATION;

use crate::context::{Context, Figures};
use crate::meshed::disturbance::Plan;
use crate::meshed::fleet::Size;
use crate::meshed::under_load::{self, Ask, Case};

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    let case = Case {
        mesh: "e2e-rotation-root",
        kind: RotationKind::Root,
        ask: Ask::Annotation(ROTATE_ROOT_ANNOTATION),
        size: Size { servers: 10, clients: 6, guests: 4, rate: 20 },
        pods: 20,
        rounds: if cx.long() { 6 } else { 2 },
        plan: Plan { kills: if cx.long() { 16 } else { 4 }, seed: 1 },
    };
    under_load::run(cx, case).await
}
