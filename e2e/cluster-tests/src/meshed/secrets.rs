//! Looks for private keys of the certificate authority where none must ever be: logs, events, the status of Meshes, metrics.

mod traces;

use anyhow::{Context as _, Result, bail, ensure};
use bowline_crds::Mesh;
use bowline_proxy::contract::bootstrap::{GATE, SLOTS, ports};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt as _};

pub use self::traces::Traces;
use super::operator;
use crate::context::{Context, Figures, pods};
use e2e::cluster::install::NAMESPACE;

/// Secrets that must hold keys: a search that knows none proves nothing.
const KEYED: [&str; 2] = ["bowline-ca", "bowline-webhook"];
/// Port of the operator's metrics.
const OPERATOR_METRICS: u16 = 8080;

/// A search for every key that was there at some time.
#[derive(Debug, Default)]
pub struct Search {
    traces: Traces,
    /// Where something was found.
    found: Vec<String>,
    places: u64,
}

impl Search {
    /// Learns the keys that there are now; to be repeated while new ones are made.
    ///
    /// # Errors
    /// When the operator's Secrets hold no key.
    pub async fn learn(&mut self, cx: &Context) -> Result<()> {
        let secrets = Api::<Secret>::namespaced(cx.client(), NAMESPACE).list(&ListParams::default()).await?;
        for secret in &secrets {
            let mut here = Traces::default();
            for value in secret.data.iter().flatten().map(|(_, value)| value) {
                here.extend(Traces::of_keys_in(&String::from_utf8_lossy(&value.0)));
            }
            let name = secret.name_any();
            ensure!(!KEYED.contains(&name.as_str()) || !here.is_empty(), "no key was found in Secret {name}");
            self.traces.extend(here);
        }
        ensure!(self.traces.keys() >= 2, "only {} keys were found in the operator's Secrets", self.traces.keys());
        Ok(())
    }

    /// Looks through a text.
    pub fn look(&mut self, place: &str, text: &str) {
        self.places += 1;
        if let Some(at) = self.traces.find(text) {
            // Where, and never what.
            self.found.push(format!("{place} (near byte {at} of {})", text.len()));
        }
    }

    /// Looks through everything that can be seen of the operator, of the Meshes, and of the proxies in `namespaces`.
    ///
    /// # Errors
    /// When something cannot be read.
    pub async fn look_everywhere(&mut self, cx: &Context, namespaces: &[String]) -> Result<()> {
        for pod in operator::pods(cx).await? {
            let container = pod.spec.iter().flat_map(|s| &s.containers).map(|c| c.name.as_str()).next();
            self.look_at_logs(cx, &pod, &[container.context("an operator without container")?]).await?;
            self.look_at_metrics(cx, &pod, OPERATOR_METRICS).await?;
        }
        for namespace in namespaces {
            for pod in cx.pods(namespace, "app").await? {
                self.look_at_logs(cx, &pod, &[SLOTS[0], SLOTS[1], GATE]).await?;
                self.look_at_metrics(cx, &pod, ports::METRICS).await?;
            }
        }
        for event in Api::<Event>::all(cx.client()).list(&ListParams::default()).await? {
            self.look(&format!("event {}", event.name_any()), &serde_json::to_string(&event)?);
        }
        for mesh in Api::<Mesh>::all(cx.client()).list(&ListParams::default()).await? {
            self.look(&format!("Mesh {}", mesh.name_any()), &serde_json::to_string(&mesh)?);
        }
        Ok(())
    }

    /// The end of it; figures when nothing was found.
    ///
    /// # Errors
    /// Says where something was found.
    pub fn nothing_found(&self, figures: Figures) -> Result<Figures> {
        ensure!(self.places > 0 && !self.traces.is_empty(), "nothing was looked through");
        if !self.found.is_empty() {
            bail!("private keys show in: {}", self.found.join(", "));
        }
        Ok(figures.with("keys_known", self.traces.keys()).with("places_searched", self.places))
    }

    async fn look_at_logs(&mut self, cx: &Context, pod: &Pod, containers: &[&str]) -> Result<()> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pods::name(pod));
        let api = Api::<Pod>::namespaced(cx.client(), &namespace);
        for container in containers {
            let place = format!("log of {namespace}/{name} ({container})");
            self.look(&place, &cx.logs(&namespace, &name, container).await?);
            let params = LogParams { container: Some((*container).into()), previous: true, ..LogParams::default() };
            // Only one that restarted has an earlier one.
            if let Ok(log) = api.logs(&name, &params).await {
                self.look(&format!("earlier {place}"), &log);
            }
        }
        Ok(())
    }

    async fn look_at_metrics(&mut self, cx: &Context, pod: &Pod, port: u16) -> Result<()> {
        let page = cx.http_get(pods::ip(pod)?, port, "/metrics").await?;
        self.look(&format!("metrics of {}", pods::name(pod)), &String::from_utf8_lossy(page.body()));
        Ok(())
    }
}
