//! One object: from memory, or from the API server where memory may be behind.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, runtime::reflector::ObjectRef};

use crate::{context::Ctx, meshes::Membership};

/// A namespace and the Mesh that it belongs to. Where memory knows of none the namespace is read anew: whoever asks has a reason to
/// believe that it is a member, so memory may be behind.
///
/// # Errors
/// When it had to be read and could not.
pub async fn membership(ctx: &Ctx, name: &str) -> Result<(Arc<Namespace>, Membership), kube::Error> {
    if let Some(namespace) = ctx.namespaces.get(name) {
        let membership = ctx.registry.for_namespace(&namespace);
        if matches!(membership, Membership::One(_)) {
            return Ok((namespace, membership));
        }
    }
    let namespace = Api::<Namespace>::all(ctx.client.clone()).get(name).await?;
    let membership = ctx.registry.for_namespace(&namespace);
    Ok((Arc::new(namespace), membership))
}

/// The pod of that name and UID; `None`: there is none.
///
/// # Errors
/// When it had to be read and could not.
pub async fn pod(ctx: &Ctx, namespace: &str, name: &str, uid: &str) -> Result<Option<Arc<Pod>>, kube::Error> {
    let is_it = |pod: &Pod| pod.metadata.uid.as_deref() == Some(uid);
    if let Some(pod) = ctx.pods.store().get(&ObjectRef::new(name).within(namespace)).filter(|p| is_it(p)) {
        return Ok(Some(pod));
    }
    let pod = Api::<Pod>::namespaced(ctx.client.clone(), namespace).get_opt(name).await?;
    Ok(pod.filter(is_it).map(Arc::new))
}
