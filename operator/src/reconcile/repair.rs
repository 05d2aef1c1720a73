//! Finds pods that should carry a sidecar and do not, because they are older than their namespace's membership or came while the
//! webhook was off, and says so on the pod. It never evicts: when a pod restarts is its owner's decision. Leader only.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bowline_crds::{conditions::reasons::PODS_WITHOUT_SIDECAR, names::INJECT_LABEL};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Resource, ResourceExt,
    runtime::events::{Event, EventType, Recorder},
};

use crate::{
    cluster::{
        cache::Cache,
        membership::{Membership, Registry},
        pod::{injected_mesh, is_static, on_host_network, opted_out},
    },
    runtime::shutdown::{Shutdown, TaskResult},
};

/// Pause between two looks, however much changes.
const PAUSE: Duration = Duration::from_secs(5);
/// Most events per look: a large namespace that joins must not flood the API server.
const MAX_EVENTS: usize = 50;

/// A pod without the sidecar that it should carry.
#[derive(Debug, Clone)]
pub struct Missing {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Name of the Mesh that it should be in.
    pub mesh: String,
}

/// Every live pod that should carry a sidecar and does not, by namespace and name.
#[must_use]
pub fn missing_sidecars<'a>(
    pods: &'a [Arc<Pod>],
    namespaces: &[Arc<Namespace>],
    membership: impl Fn(&Namespace) -> Membership,
) -> Vec<Missing> {
    let members: BTreeMap<String, String> = namespaces
        .iter()
        .filter_map(|n| match membership(n) {
            Membership::One(mesh) => Some((n.name_any(), mesh.name_any())),
            _ => None,
        })
        .collect();
    let lacks = |pod: &&'a Arc<Pod>| {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let live = !matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none();
        live && !opted_out(pod) && !is_static(pod) && injected_mesh(pod).is_none()
    };
    let mut missing: Vec<Missing> = pods
        .iter()
        .filter(lacks)
        .filter_map(|pod| Some(Missing { mesh: members.get(&pod.namespace()?)?.clone(), pod: Arc::clone(pod) }))
        .collect();
    missing.sort_by_key(|m| (m.pod.namespace(), m.pod.name_any()));
    missing
}

/// Looks after every change until it is dropped.
///
/// # Errors
/// None that ends it.
pub async fn run(
    registry: Registry,
    namespaces: Cache<Namespace>,
    pods: Cache<Pod>,
    recorder: Recorder,
    shutdown: Shutdown,
) -> TaskResult {
    let (mut pod_changes, mut namespace_changes, mut meshes) =
        (pods.subscribe(), namespaces.subscribe(), registry.subscribe());
    tokio::join!(pods.synced(), namespaces.synced(), registry.synced());
    let mut told = HashSet::new();
    loop {
        let selectors = registry.selectors();
        let missing = missing_sidecars(&pods.all(), &namespaces.all(), |n| selectors.membership(&n.metadata));
        tell(&recorder, &missing, &mut told).await;
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            () = tokio::time::sleep(PAUSE) => {}
        }
        if missing.iter().any(|m| !told.contains(&m.pod.uid().unwrap_or_default())) {
            continue;
        }
        let changed = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            changed = pod_changes.changed() => changed,
            changed = namespace_changes.changed() => changed,
            changed = meshes.changed() => changed,
        };
        if changed.is_err() {
            return Err("the caches are gone".into());
        }
    }
}

/// What is to be done about a pod.
pub(crate) fn note(pod: &Pod, mesh: &str) -> String {
    if on_host_network(pod) {
        return format!(
            "the namespace is in Mesh {mesh}, but a pod with hostNetwork cannot be: label its pods {INJECT_LABEL}=false, or \
             remove hostNetwork"
        );
    }
    format!(
        "the namespace is in Mesh {mesh}, but this pod was created without a sidecar: restart its workload (kubectl rollout \
         restart), or label its pods {INJECT_LABEL}=false"
    )
}

/// An event on each pod that was not told of yet.
async fn tell(recorder: &Recorder, missing: &[Missing], told: &mut HashSet<String>) {
    let present: HashSet<String> = missing.iter().filter_map(|m| m.pod.uid()).collect();
    told.retain(|uid| present.contains(uid));
    let new = missing.iter().filter(|m| m.pod.uid().is_some_and(|uid| !told.contains(&uid)));
    for Missing { pod, mesh } in &new.take(MAX_EVENTS).cloned().collect::<Vec<_>>() {
        let event = Event {
            type_: EventType::Warning,
            reason: PODS_WITHOUT_SIDECAR.into(),
            note: Some(note(pod, mesh)),
            action: "Repair".into(),
            secondary: None,
        };
        match recorder.publish(&event, &pod.object_ref(&())).await {
            Ok(()) => {
                told.extend(pod.uid());
            }
            Err(error) => {
                tracing::warn!(%error, "an event cannot be written, it is tried again");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
