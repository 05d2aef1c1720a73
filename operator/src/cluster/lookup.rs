//! One object: from memory, or from the API server where memory may be behind.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, runtime::reflector::ObjectRef};

use crate::{cluster::membership::Membership, runtime::context::Ctx};

/// It is not known which Mesh a namespace belongs to.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The namespace could not be read.
    #[error(transparent)]
    Namespace(#[from] kube::Error),
    /// The Meshes could not be.
    #[error("the Meshes cannot be listed: {0}")]
    Meshes(Arc<kube::Error>),
}

/// A namespace and the Mesh that it belongs to. Where memory knows of none the namespace is read anew, and then the Meshes: whoever asks
/// has a reason to believe that it is a member, so memory may be behind.
///
/// # Errors
/// When one of them had to be read and could not.
pub async fn membership(ctx: &Ctx, name: &str) -> Result<(Arc<Namespace>, Membership), LookupError> {
    let is_member = |membership: &Membership| matches!(membership, Membership::One(_));
    if let Some(namespace) = ctx.namespaces.get(name) {
        let membership = ctx.registry.for_namespace(&namespace);
        if is_member(&membership) {
            return Ok((namespace, membership));
        }
    }
    let namespace = Api::<Namespace>::all(ctx.client.clone()).get(name).await?;
    let mut membership = ctx.registry.for_namespace(&namespace);
    // No Mesh has an exempt one.
    if !is_member(&membership) && !ctx.registry.exempt().contains(name) {
        membership = ctx.registry.for_namespace_now(&ctx.client, &namespace).await.map_err(LookupError::Meshes)?;
    }
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
