//! The issuing CA of a mesh under load is replaced below the same root, while replicas of the operator are killed and pods come and go:
//! no request fails, no stream is lost, no container restarts.
//!
//! Seen to fail: an issuing CA that goes while a leaf of it is in use shows in the load; a rotation that replaces the root too is told by
//! the fingerprints.

use anyhow::Result;
use bowline_crds::mesh::RotationKind;

use crate::context::{Context, Figures};
use crate::meshed::disturbance::Plan;
use crate::meshed::fleet::Size;
use crate::meshed::under_load::{self, Ask, Case};

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    let case = Case {
        mesh: "e2e-rotation-issuer",
        kind: RotationKind::Issuer,
        ask: Ask::Field("issuer"),
        size: Size { servers: 3, clients: 2, guests: 2, rate: 30 },
        pods: 7,
        rounds: if cx.long() { 6 } else { 2 },
        plan: Plan { kills: if cx.long() { 16 } else { 2 }, seed: 2 },
    };
    under_load::run(cx, case).await
}
