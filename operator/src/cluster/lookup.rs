//! One object: from memory, or from the API server where memory may be behind.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, Client, runtime::reflector::ObjectRef};

use crate::cluster::{
    cache::Cache,
    membership::{Membership, Registry},
};

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

/// Finds namespaces and the Meshes that they belong to.
#[derive(Clone)]
pub struct MembershipLookup {
    client: Client,
    registry: Registry,
    namespaces: Cache<Namespace>,
}

impl MembershipLookup {
    /// In these caches, otherwise with `client`.
    #[must_use]
    pub fn new(client: Client, registry: Registry, namespaces: Cache<Namespace>) -> Self {
        Self { client, registry, namespaces }
    }

    /// A namespace and the Mesh that it belongs to. Where memory knows of none the namespace is read anew, and then the Meshes: whoever
    /// asks has a reason to believe that it is a member, so memory may be behind.
    ///
    /// # Errors
    /// When one of them had to be read and could not.
    pub async fn of(&self, name: &str) -> Result<(Arc<Namespace>, Membership), LookupError> {
        let is_member = |membership: &Membership| matches!(membership, Membership::One(_));
        if let Some(namespace) = self.namespaces.get(name) {
            let membership = self.registry.for_namespace(&namespace);
            if is_member(&membership) {
                return Ok((namespace, membership));
            }
        }
        let namespace = Api::<Namespace>::all(self.client.clone()).get(name).await?;
        let mut membership = self.registry.for_namespace(&namespace);
        // No Mesh has an exempt one.
        if !is_member(&membership) && !self.registry.exempt().contains(name) {
            let now = self.registry.for_namespace_now(&self.client, &namespace).await;
            membership = now.map_err(LookupError::Meshes)?;
        }
        Ok((Arc::new(namespace), membership))
    }
}

/// Finds pods.
#[derive(Clone)]
pub struct PodLookup {
    client: Client,
    pods: Cache<Pod>,
}

impl PodLookup {
    /// In this cache, otherwise with `client`.
    #[must_use]
    pub fn new(client: Client, pods: Cache<Pod>) -> Self {
        Self { client, pods }
    }

    /// The pod of that name and UID; `None`: there is none.
    ///
    /// # Errors
    /// When it had to be read and could not.
    pub async fn get(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<Arc<Pod>>, kube::Error> {
        let is_it = |pod: &Pod| pod.metadata.uid.as_deref() == Some(uid);
        if let Some(pod) = self.pods.store().get(&ObjectRef::new(name).within(namespace)).filter(|p| is_it(p)) {
            return Ok(Some(pod));
        }
        let pod = Api::<Pod>::namespaced(self.client.clone(), namespace).get_opt(name).await?;
        Ok(pod.filter(is_it).map(Arc::new))
    }
}
