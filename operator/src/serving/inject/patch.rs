//! Plan → RFC 6902 operations. Only what is ours is added and only handlers of probes are replaced, so that whatever else stands in
//! the pod stays as it is, fields that this operator does not know included.

use std::collections::BTreeMap;

use bowline_crds::names::{INJECTED_ANNOTATION, MESHED_LABEL, PROXY_VERSION_ANNOTATION};
use bowline_proxy::contract::bootstrap::{GATE, SLOTS, VERSION, env, ports};
use json_patch::{
    AddOperation, MoveOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, jsonptr::PointerBuf,
};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;
use serde::Serialize;
use serde_json::Value;

use super::{
    decide::Plan,
    probes::{Kind, Rewrite},
    sidecar::{self, Sidecar},
};

const SCRAPE: &str = "prometheus.io/scrape";
const SCRAPE_PORT: &str = "prometheus.io/port";
const SCRAPE_PATH: &str = "prometheus.io/path";

/// What makes `plan` of `pod`; nothing, when it is already so.
#[must_use]
pub fn patch(pod: &Pod, plan: &Plan) -> Patch {
    let mut ops = Ops::default();
    let Some(spec) = &pod.spec else { return Patch(Vec::new()) };
    // First, because their indices are those of the containers as they are.
    for rewrite in &plan.rewrites {
        ops.rewrite(rewrite);
    }
    if plan.present {
        if !plan.rewrites.is_empty() {
            ops.tell_probes(spec, &plan.sidecar);
        }
        ops.move_to_head(spec);
    } else {
        ops.insert(pod, spec, &plan.sidecar);
    }
    Patch(ops.0)
}

#[derive(Default)]
struct Ops(Vec<PatchOperation>);

impl Ops {
    fn add(&mut self, path: &[&str], value: &impl Serialize) {
        self.0.push(PatchOperation::Add(AddOperation { path: pointer(path), value: json(value) }));
    }

    fn replace(&mut self, path: &[&str], value: &impl Serialize) {
        self.0.push(PatchOperation::Replace(ReplaceOperation { path: pointer(path), value: json(value) }));
    }

    fn rewrite(&mut self, rewrite: &Rewrite) {
        let index = rewrite.index.to_string();
        let mut path = vec!["spec", if rewrite.init { "initContainers" } else { "containers" }, &index];
        match rewrite.kind {
            Kind::PostStart => path.extend(["lifecycle", "postStart"]),
            Kind::PreStop => path.extend(["lifecycle", "preStop"]),
            Kind::Liveness | Kind::Readiness | Kind::Startup => path.push(rewrite.kind.field()),
        }
        if rewrite.handler != "httpGet" {
            let mut old = path.clone();
            old.push(rewrite.handler);
            self.0.push(PatchOperation::Remove(RemoveOperation { path: pointer(&old) }));
        }
        path.push("httpGet");
        // `add` replaces what is there (RFC 6902, section 4.1).
        self.add(&path, &rewrite.replacement());
    }

    /// Sidecar containers, volumes, annotations and label of a pod that has none of it.
    fn insert(&mut self, pod: &Pod, spec: &PodSpec, sidecar: &Sidecar) {
        let containers = sidecar::containers(sidecar);
        if spec.init_containers.as_ref().is_none_or(Vec::is_empty) {
            self.add(&["spec", "initContainers"], &containers);
        } else {
            for (index, container) in containers.iter().enumerate() {
                self.add(&["spec", "initContainers", &index.to_string()], container);
            }
        }
        let volumes = sidecar::volumes(&sidecar.mesh);
        if spec.volumes.as_ref().is_none_or(Vec::is_empty) {
            self.add(&["spec", "volumes"], &volumes);
        } else {
            for volume in &volumes {
                self.add(&["spec", "volumes", "-"], volume);
            }
        }
        self.entries("annotations", pod.metadata.annotations.as_ref(), &annotations(pod, sidecar));
        self.entries("labels", pod.metadata.labels.as_ref(), &[(MESHED_LABEL, "true".to_owned())]);
    }

    fn entries(&mut self, member: &str, old: Option<&BTreeMap<String, String>>, new: &[(&str, String)]) {
        if old.is_none_or(BTreeMap::is_empty) {
            let all: BTreeMap<&str, &String> = new.iter().map(|(k, v)| (*k, v)).collect();
            self.add(&["metadata", member], &all);
        } else {
            for (key, value) in new {
                self.add(&["metadata", member, key], value);
            }
        }
    }

    /// Gives present slots the list of probes, after another webhook brought new ones.
    fn tell_probes(&mut self, spec: &PodSpec, sidecar: &Sidecar) {
        let value = sidecar::probes_value(&sidecar.probes).unwrap_or_default();
        for (index, container) in spec.init_containers.iter().flatten().enumerate() {
            if !SLOTS.contains(&container.name.as_str()) {
                continue;
            }
            let index = index.to_string();
            let vars = container.env.as_deref().unwrap_or_default();
            match vars.iter().position(|e| e.name == env::PROBES) {
                Some(at) => {
                    self.replace(&["spec", "initContainers", &index, "env", &at.to_string(), "value"], &value);
                }
                // Our slots always have some environment, so the list is there.
                None => {
                    let var = serde_json::json!({ "name": env::PROBES, "value": value });
                    self.add(&["spec", "initContainers", &index, "env", "-"], &var);
                }
            }
        }
    }

    /// Moves our containers to the head, where another webhook has put its own before them.
    fn move_to_head(&mut self, spec: &PodSpec) {
        let mut order: Vec<&str> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
        for (to, name) in [SLOTS[0], SLOTS[1], GATE].into_iter().enumerate() {
            let Some(from) = order.iter().position(|n| *n == name) else { continue };
            if from != to {
                let container = order.remove(from);
                order.insert(to, container);
                let at = |index: usize| pointer(&["spec", "initContainers", &index.to_string()]);
                self.0.push(PatchOperation::Move(MoveOperation { from: at(from), path: at(to) }));
            }
        }
    }
}

fn annotations<'a>(pod: &Pod, sidecar: &Sidecar) -> Vec<(&'a str, String)> {
    let mut all = vec![(INJECTED_ANNOTATION, sidecar.mesh.clone()), (PROXY_VERSION_ANNOTATION, VERSION.to_owned())];
    // Prometheus scrapes one port per pod by annotation: the user's choice stands.
    let chosen = [SCRAPE, SCRAPE_PORT, SCRAPE_PATH].iter().any(|key| pod.annotations().contains_key(*key));
    if !chosen {
        all.extend([
            (SCRAPE, "true".to_owned()),
            (SCRAPE_PORT, ports::METRICS.to_string()),
            (SCRAPE_PATH, "/metrics".to_owned()),
        ]);
    }
    all
}

/// Escapes as RFC 6901 says.
fn pointer(tokens: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(tokens.iter().copied())
}

fn json(value: &impl Serialize) -> Value {
    // Kubernetes' types and maps of strings: this cannot fail.
    serde_json::to_value(value).unwrap_or_default()
}
