//! Caches → index: takes what changed since the last time. The first change after a pause passes at once; under load changes are
//! gathered for [`GATHER`].

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Resource, ResourceExt, runtime::reflector::ObjectRef};
use tokio::sync::oneshot;

use super::{
    subscriptions::Subscriptions,
    view::{MeshView, PodView, ServiceView, SliceView},
};
use crate::{
    cluster::{cache::Cache, control_ips::ControlIps, membership::Registry, namespaced_name::NamespacedName},
    runtime::shutdown::{Shutdown, TaskResult},
};

/// Time for which changes are gathered after a change.
const GATHER: Duration = Duration::from_millis(20);

/// Keeps the index fresh.
pub struct IndexWatch {
    /// Every Mesh.
    pub registry: Registry,
    /// Every pod.
    pub pods: Cache<Pod>,
    /// Every Service.
    pub services: Cache<Service>,
    /// Every EndpointSlice.
    pub slices: Cache<EndpointSlice>,
    /// The index, and those who are sent what changes.
    pub subscriptions: Subscriptions,
    /// Addresses of the Service in front of this control plane.
    pub control_ips: ControlIps,
    /// Asks it to end.
    pub shutdown: Shutdown,
}

impl IndexWatch {
    /// Runs until shutdown; `filled` is told when the index first is complete.
    ///
    /// # Errors
    /// When the caches are gone.
    pub async fn run(self, filled: oneshot::Sender<()>) -> TaskResult {
        let Self { registry, pods, services, slices, .. } = &self;
        let mut changes = (pods.subscribe(), services.subscribe(), slices.subscribe(), registry.subscribe());
        tokio::join!(pods.synced(), services.synced(), slices.synced(), registry.synced());
        pods.track();
        services.track();
        slices.track();
        let mut meshes = BTreeSet::new();
        let mut filled = Some(filled);
        loop {
            meshes = self.take_meshes(&meshes);
            self.take();
            self.control_ips.update(&services.all());
            if let Some(filled) = filled.take() {
                // An error means that nobody waits.
                let _ = filled.send(());
            }
            let changed = tokio::select! {
                () = self.shutdown.over() => return Ok(()),
                changed = changes.0.changed() => changed,
                changed = changes.1.changed() => changed,
                changed = changes.2.changed() => changed,
                changed = changes.3.changed() => changed,
            };
            if changed.is_err() {
                return Err("the caches are gone".into());
            }
            self.take();
            tokio::time::sleep(GATHER).await;
        }
    }

    fn take(&self) {
        let (pods, services, slices) =
            (self.pods.take_changed(), self.services.take_changed(), self.slices.take_changed());
        if pods.is_empty() && services.is_empty() && slices.is_empty() {
            return;
        }
        self.subscriptions.update(|index| {
            let mut touched = BTreeSet::new();
            for (key, pod) in pods {
                touched.extend(index.set_pod(&name(&key), pod.as_deref().and_then(PodView::of)));
            }
            for (key, service) in services {
                touched.extend(index.set_service(&name(&key), service.as_deref().and_then(ServiceView::of)));
            }
            for (key, slice) in slices {
                touched.extend(index.set_slice(&name(&key), slice.as_deref().and_then(SliceView::of)));
            }
            touched
        });
    }

    /// Gives the names of the Meshes that are there now.
    fn take_meshes(&self, before: &BTreeSet<String>) -> BTreeSet<String> {
        let mut now = BTreeSet::new();
        for mesh in self.registry.all() {
            self.subscriptions.set_mesh(&mesh.name_any(), Some(MeshView::of(&mesh)));
            now.insert(mesh.name_any());
        }
        for gone in before.difference(&now) {
            self.subscriptions.set_mesh(gone, None);
        }
        now
    }
}

fn name<K: Resource<DynamicType = ()>>(key: &ObjectRef<K>) -> NamespacedName {
    NamespacedName::new(key.namespace.as_deref().unwrap_or_default(), key.name.as_str())
}
