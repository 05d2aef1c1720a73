//! Caches → index: takes what changed since the last time. The first change after a pause passes at once; under load changes are
//! gathered for [`GATHER`].

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::{Pod, Service, ServiceSpec},
    discovery::v1::EndpointSlice,
};
use kube::{Resource, ResourceExt, runtime::reflector::ObjectRef};
use tokio::sync::oneshot;

use super::{
    subscribers::Hub,
    view::{MeshView, PodView, ServiceView, SliceView},
};
use crate::{
    cluster::{cache::Cache, namespaced_name::NamespacedName},
    runtime::{config::CONTROL_SERVICE, context::Ctx, shutdown::TaskResult},
};

/// Time for which changes are gathered after a change.
const GATHER: Duration = Duration::from_millis(20);

/// Keeps the index fresh until shutdown; `filled` is told when it first is complete.
///
/// # Errors
/// When the caches are gone.
pub async fn run(
    ctx: Arc<Ctx>,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    hub: Hub,
    filled: oneshot::Sender<()>,
) -> TaskResult {
    let mut changes = (ctx.pods.subscribe(), services.subscribe(), slices.subscribe(), ctx.registry.subscribe());
    tokio::join!(ctx.pods.synced(), services.synced(), slices.synced(), ctx.registry.synced());
    ctx.pods.track();
    services.track();
    slices.track();
    let mut meshes = BTreeSet::new();
    let mut filled = Some(filled);
    loop {
        meshes = take_meshes(&ctx, &hub, &meshes);
        take(&ctx.pods, &services, &slices, &hub);
        publish(&ctx, &services);
        if let Some(filled) = filled.take() {
            // An error means that nobody waits.
            let _ = filled.send(());
        }
        let changed = tokio::select! {
            () = ctx.shutdown.over() => return Ok(()),
            changed = changes.0.changed() => changed,
            changed = changes.1.changed() => changed,
            changed = changes.2.changed() => changed,
            changed = changes.3.changed() => changed,
        };
        if changed.is_err() {
            return Err("the caches are gone".into());
        }
        take(&ctx.pods, &services, &slices, &hub);
        tokio::time::sleep(GATHER).await;
    }
}

/// Where pods find this control plane whose DNS does not know its name.
fn publish(ctx: &Ctx, services: &Cache<Service>) {
    let all = services.all();
    let namespace = Some(ctx.config.namespace.as_str());
    let own = all.iter().find(|s| s.metadata.namespace.as_deref() == namespace && s.name_any() == CONTROL_SERVICE);
    let ips = own.and_then(|s| s.spec.as_ref()).map(cluster_ips).unwrap_or_default();
    ctx.control_ips.send_if_modified(|held| {
        let differs = held.as_ref() != Some(&ips);
        *held = Some(ips);
        differs
    });
}

/// Those of a headless Service are none.
fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none()));
    all.filter_map(|ip| ip.parse().ok()).collect()
}

fn take(pods: &Cache<Pod>, services: &Cache<Service>, slices: &Cache<EndpointSlice>, hub: &Hub) {
    let (pods, services, slices) = (pods.take_changed(), services.take_changed(), slices.take_changed());
    if pods.is_empty() && services.is_empty() && slices.is_empty() {
        return;
    }
    hub.update(|index| {
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
fn take_meshes(ctx: &Ctx, hub: &Hub, before: &BTreeSet<String>) -> BTreeSet<String> {
    let mut now = BTreeSet::new();
    for mesh in ctx.registry.all() {
        hub.set_mesh(&mesh.name_any(), Some(MeshView::of(&mesh)));
        now.insert(mesh.name_any());
    }
    for gone in before.difference(&now) {
        hub.set_mesh(gone, None);
    }
    now
}

fn name<K: Resource<DynamicType = ()>>(key: &ObjectRef<K>) -> NamespacedName {
    NamespacedName::new(key.namespace.as_deref().unwrap_or_default(), key.name.as_str())
}
