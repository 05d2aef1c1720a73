//! Addresses of the Service before the identity and control server: where pods find it whose DNS does not know its name.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use kube::ResourceExt;
use tokio::sync::watch;

use crate::runtime::config::CONTROL_SERVICE;

/// Takes the addresses from the Services of the cluster, and tells who wants to know.
pub struct ControlIps {
    namespace: String,
    /// `None` until Services were listed.
    ips: watch::Sender<Option<Vec<IpAddr>>>,
}

impl ControlIps {
    /// Of the Service in the operator's `namespace`; `ips` changes whenever they do.
    #[must_use]
    pub fn new(namespace: String, ips: watch::Sender<Option<Vec<IpAddr>>>) -> Self {
        Self { namespace, ips }
    }

    /// Reads them from all Services.
    pub fn update(&self, services: &[Arc<Service>]) {
        let namespace = Some(self.namespace.as_str());
        let own =
            services.iter().find(|s| s.metadata.namespace.as_deref() == namespace && s.name_any() == CONTROL_SERVICE);
        let ips = own.and_then(|s| s.spec.as_ref()).map(cluster_ips).unwrap_or_default();
        self.ips.send_if_modified(|held| {
            let differs = held.as_ref() != Some(&ips);
            *held = Some(ips);
            differs
        });
    }
}

/// Those of a headless Service are none.
fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none()));
    all.filter_map(|ip| ip.parse().ok()).collect()
}
