//! What a person needs to know about a test that failed, collected before anything is cleaned up.

use std::path::{Path, PathBuf};

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;

use super::{connect::Context, pods};
use e2e::cluster::install;

impl Context {
    /// Writes objects, events and logs of the test's namespaces and of the operator's to `target/e2e/diagnostics/NAME`.
    pub async fn diagnose(&self, error: &anyhow::Error) -> PathBuf {
        self.forget_diagnosis();
        let dir = self.diagnostics();
        let _ = std::fs::create_dir_all(&dir);
        let _ = std::fs::write(dir.join("error.txt"), format!("{error:?}\n"));
        self.dump(&dir, "nodes.txt", &["get", "nodes", "-o", "wide"]).await;
        self.dump(&dir, "meshes.yaml", &["get", "meshes.bowline.dev", "-o", "yaml"]).await;
        let mut namespaces = self.own_namespaces();
        namespaces.push(install::NAMESPACE.into());
        for namespace in namespaces {
            let below = dir.join(&namespace);
            let _ = std::fs::create_dir_all(&below);
            let ns = namespace.as_str();
            let kinds = "pods,services,endpointslices,deployments,statefulsets,jobs,configmaps,serviceaccounts";
            self.dump(&below, "objects.txt", &["get", kinds, "-n", ns, "-o", "wide"]).await;
            self.dump(&below, "pods.yaml", &["get", "pods", "-n", ns, "-o", "yaml"]).await;
            self.dump(&below, "events.txt", &["get", "events", "-n", ns, "--sort-by=.lastTimestamp"]).await;
            let _ = self.dump_logs(&below, ns).await;
        }
        dir
    }

    /// Removes what an earlier failure left.
    pub fn forget_diagnosis(&self) {
        let _ = std::fs::remove_dir_all(self.diagnostics());
    }

    fn diagnostics(&self) -> PathBuf {
        self.env.found.join("diagnostics").join(&self.test)
    }

    async fn dump(&self, dir: &Path, file: &str, kubectl: &[&str]) {
        let text = self.kubectl(kubectl).await.unwrap_or_else(|e| format!("{e:#}\n"));
        let _ = std::fs::write(dir.join(file), text);
    }

    /// Logs of all containers, also of their previous run.
    async fn dump_logs(&self, dir: &Path, namespace: &str) -> Result<()> {
        let api = Api::<Pod>::namespaced(self.client(), namespace);
        for pod in api.list(&Default::default()).await? {
            let name = pods::name(&pod);
            for (container, restarts) in pods::restarts(&pod) {
                for previous in [false, true].into_iter().take(1 + usize::from(restarts > 0)) {
                    let params = LogParams { container: Some(container.clone()), previous, ..Default::default() };
                    let log = api.logs(&name, &params).await.unwrap_or_else(|e| format!("no log: {e}\n"));
                    let suffix = if previous { ".previous" } else { "" };
                    let _ = std::fs::write(dir.join(format!("{name}.{container}{suffix}.log")), log);
                }
            }
        }
        Ok(())
    }
}
