//! Whether an authenticated pod may have an identity of the mesh that it asks.

use super::{authenticate::Caller, refused::Refused};
use crate::cluster::{
    lookup::{LookupError, MembershipLookup, PodLookup},
    pod::{injected_mesh, service_account},
};

/// What callers are checked against.
pub struct Authorization {
    memberships: MembershipLookup,
    pods: PodLookup,
}

impl Authorization {
    /// Checks against what these find.
    #[must_use]
    pub fn new(memberships: MembershipLookup, pods: PodLookup) -> Self {
        Self { memberships, pods }
    }

    /// That the caller's namespace belongs to `mesh`, and that it is a live pod with that mesh's sidecar.
    ///
    /// # Errors
    /// Says which of it does not hold.
    pub async fn check(&self, caller: &Caller, mesh: &str) -> Result<(), Refused> {
        let Caller { namespace, pod, .. } = caller;
        let unavailable = |error: LookupError| match error {
            LookupError::Namespace(kube::Error::Api(status)) if status.code == 404 => {
                Refused::Denied(format!("namespace {namespace} does not exist"))
            }
            error => {
                tracing::warn!(%pod, %error, "a caller cannot be looked up");
                Refused::Unavailable("the caller's pod cannot be read from the API server now: try again".into())
            }
        };
        let (_, membership) = self.memberships.of(namespace).await.map_err(unavailable)?;
        if !membership.is(mesh) {
            return Err(Refused::Denied(format!(
                "namespace {namespace} is not in Mesh {mesh}: label it bowline.dev/mesh={mesh}, or restart the pod without its sidecar"
            )));
        }
        let found = self.pods.get(namespace, &pod.name, &caller.uid).await.map_err(|e| unavailable(e.into()))?;
        let denied = |why: String| Err(Refused::Denied(why));
        let Some(found) = found else {
            return denied(format!("pod {pod} with the token's UID does not exist any more"));
        };
        let phase = found.status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return denied(format!("pod {pod} has ended"));
        }
        if service_account(&found) != caller.service_account {
            return denied(format!("pod {pod} does not run as service account {}", caller.service_account));
        }
        if injected_mesh(&found) != Some(mesh) {
            return denied(format!("pod {pod} carries no sidecar of Mesh {mesh}: restart it, so that it is injected"));
        }
        Ok(())
    }
}
