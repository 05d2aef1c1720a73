//! What somebody should be told, as events: what was done, and what changed for the worse or back to good.

use bowline_crds::{
    MeshStatus,
    conditions::{reasons, types},
    mesh::RotationKind,
};
use kube::ResourceExt;

use super::build::Plan;
use crate::{ca::rotation::write::Write, reconcile::rotation::ensure::Ensured, runtime::config::CA_SECRET};

/// What somebody should be told: what changed for the worse or back to good between two statuses.
#[must_use]
pub fn of_conditions(before: Option<&MeshStatus>, after: &MeshStatus) -> Vec<MeshEvent> {
    let was = |kind: &str| before.and_then(|b| b.conditions.iter().find(|c| c.type_ == kind));
    let mut events = Vec::new();
    for condition in &after.conditions {
        let same = was(&condition.type_).is_some_and(|w| w.status == condition.status && w.reason == condition.reason);
        let bad = matches!(condition.type_.as_str(), types::STALLED | types::DEGRADED | types::TRUST_AT_RISK)
            && condition.status == "True";
        // Ready may stay True while something fails, with that reason.
        let good =
            condition.type_ == types::READY && condition.status == "True" && condition.reason == reasons::RECONCILED;
        if same || !(bad || good) {
            continue;
        }
        let item = MeshEvent { warning: bad, reason: condition.reason.clone(), message: condition.message.clone() };
        if !events.contains(&item) {
            events.push(item);
        }
    }
    events
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshEvent {
    /// Whether it is a warning.
    pub warning: bool,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Events about what was done, as opposed to how it stands now.
#[must_use]
pub fn of_changes(namespace: &str, ensured: &Ensured, plan: &Plan) -> Vec<MeshEvent> {
    let mut events = Vec::new();
    if let Some(damage) = &ensured.restored {
        let message = format!(
            "Secret {}/{CA_SECRET} was damaged ({damage}) and has been put back from memory: keep others from writing to it",
            namespace
        );
        events.push(MeshEvent { warning: true, reason: reasons::CA_STATE_RESTORED.into(), message });
    }
    events.extend(ensured.writes.iter().filter_map(of_write));
    for change in plan.apply.iter().filter(|c| c.repairs) {
        let map = &change.object;
        let message = format!(
            "ConfigMap {}/{} had been edited and was put back: it belongs to the operator, which keeps it as the Mesh says",
            map.namespace().unwrap_or_default(),
            map.name_any()
        );
        events.push(MeshEvent { warning: true, reason: reasons::CONFIG_MAP_REPAIRED.into(), message });
    }
    events
}

/// Name of a step in metrics; `None`: it is none.
#[must_use]
pub fn step(write: &Write) -> Option<&'static str> {
    Some(match write {
        Write::First => "first",
        Write::Stage { .. } => "stage",
        Write::Distribute => "distribute",
        Write::Activate { .. } => "activate",
        Write::DropIssuer { .. } => "drop-issuer",
        Write::DropRoot { .. } => "drop-root",
        Write::Abort => "abort",
        Write::RollBack { .. } => "roll-back",
        Write::Finish => "finish",
        Write::Settle | Write::Forget { .. } | Write::LeafSeconds(_) | Write::Sequence(_) | Write::Handled(_) => {
            return None;
        }
    })
}

fn of_write(write: &Write) -> Option<MeshEvent> {
    let short = |id: &str| id.chars().take(16).collect::<String>();
    let (reason, message) = match write {
        Write::First => (reasons::AUTHORITY_CREATED, "the first root and issuing CA are in use".to_owned()),
        Write::Stage { kind: RotationKind::Root, cause } => (
            reasons::AUTHORITY_CREATED,
            format!("a new root and issuing CA are there, to replace the present ({cause:?})"),
        ),
        Write::Stage { kind: RotationKind::Issuer, cause } => {
            (reasons::AUTHORITY_CREATED, format!("a new issuing CA is there, to replace the present ({cause:?})"))
        }
        Write::Distribute => (reasons::ROTATION, "the new authority is given to every workload".into()),
        Write::Activate { .. } => (reasons::ROTATION, "the new issuing CA signs; workloads renew their leaves".into()),
        Write::DropIssuer { id } => {
            (reasons::ROTATION, format!("no workload depends on issuing CA {} any more: it is gone", short(id)))
        }
        Write::DropRoot { id, revoke: false } => {
            (reasons::ROTATION, format!("nobody depends on root {} any more: it is gone", short(id)))
        }
        Write::DropRoot { id, revoke: true } => (
            reasons::ROTATION,
            format!("compromised root {} is no longer trusted; connections below it are closed", short(id)),
        ),
        Write::Abort => (reasons::ROTATION, "the rotation was aborted: the new authority is gone".into()),
        Write::RollBack { .. } => {
            (reasons::ROTATION, "the rotation is rolled back: the old authority signs again".into())
        }
        Write::Finish => (reasons::ROTATION, "the rotation is over".into()),
        Write::Settle | Write::Forget { .. } | Write::LeafSeconds(_) | Write::Sequence(_) | Write::Handled(_) => {
            return None;
        }
    };
    Some(MeshEvent { warning: false, reason: reason.into(), message })
}
