//! Manifests of the test application: a ServiceAccount, a Deployment or StatefulSet and a Service, all of one name.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::shared::SOON;
use crate::context::Context;
use e2e::images::product::image_name;

/// Image of the test application, without version.
pub const IMAGE: &str = "bowline-test-app";
/// Name of the container that runs it.
pub const CONTAINER: &str = "app";

/// Ports of the Service: number, name, target, application protocol.
const PORTS: [(u16, &str, u16, Option<&str>); 8] = [
    (80, "http", 8080, Some("http")),
    (81, "h2c", 8081, Some("kubernetes.io/h2c")),
    // Protocols nowhere declared: detected.
    (8088, "some", 8080, None),
    (5555, "any", 5555, None),
    (9000, "tcp-echo", 9000, None),
    (3306, "mysql", 3306, None),
    (9090, "grpc", 9090, Some("grpc")),
    (9091, "calls", 9090, None),
];

/// One application to deploy.
#[derive(Clone, Debug)]
pub struct App {
    name: String,
    replicas: u32,
    stateful: bool,
    labels: Value,
    /// Merged over the defaults one after the other.
    container: Vec<Value>,
    spec: Vec<Value>,
}

impl App {
    /// The test application as a server of everything, one replica.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), replicas: 1, stateful: false, labels: json!({}), container: vec![], spec: vec![] }
    }

    /// How many pods.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// A StatefulSet behind a headless Service instead of a Deployment behind a cluster IP.
    #[must_use]
    pub fn stateful(mut self) -> Self {
        self.stateful = true;
        self
    }

    /// A label on its pods.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels[key] = value.into();
        self
    }

    /// Fields of its container, merged over the defaults.
    #[must_use]
    pub fn container(mut self, fields: Value) -> Self {
        self.container.push(fields);
        self
    }

    /// Fields of its pod spec, merged over the defaults.
    #[must_use]
    pub fn spec(mut self, fields: Value) -> Self {
        self.spec.push(fields);
        self
    }

    /// Its objects, as a List.
    #[must_use]
    pub fn manifests(&self) -> Value {
        let mut template = pod(&self.name, json!({}), json!({}));
        for fields in &self.container {
            merge(&mut template["spec"]["containers"][0], fields.clone());
        }
        for fields in &self.spec {
            merge(&mut template["spec"], fields.clone());
        }
        merge(&mut template["metadata"], json!({ "labels": self.labels }));
        let selector = json!({ "app": self.name });
        let mut workload = json!({
            "apiVersion": "apps/v1", "kind": if self.stateful { "StatefulSet" } else { "Deployment" },
            "metadata": { "name": self.name },
            "spec": {
                "replicas": self.replicas, "selector": { "matchLabels": selector },
                "template": { "metadata": template["metadata"], "spec": template["spec"] },
            },
        });
        if let Some(metadata) = workload["spec"]["template"]["metadata"].as_object_mut() {
            metadata.remove("name");
        }
        let ports = PORTS.map(|(port, name, target, protocol)| {
            let mut port = json!({ "name": name, "port": port, "targetPort": target });
            if let Some(protocol) = protocol {
                port["appProtocol"] = protocol.into();
            }
            port
        });
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": self.name },
            "spec": { "selector": selector, "ports": ports },
        });
        if self.stateful {
            workload["spec"]["serviceName"] = self.name.clone().into();
            service["spec"]["clusterIP"] = "None".into();
        }
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": self.name } });
        json!({ "apiVersion": "v1", "kind": "List", "items": [account, workload, service] })
    }

    fn resource(&self) -> String {
        format!("{}/{}", if self.stateful { "statefulset" } else { "deployment" }, self.name)
    }
}

/// A pod of the test application that runs as `account`; `container` and `spec` are merged over the defaults.
#[must_use]
pub fn pod(account: &str, container: Value, spec: Value) -> Value {
    let mut app = json!({
        "name": CONTAINER, "image": image_name(IMAGE), "imagePullPolicy": "IfNotPresent", "args": ["serve"],
        "env": [{ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        // A machine may stand still for longer than the second that is the default.
        "readinessProbe": { "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1, "timeoutSeconds": 5 },
        "securityContext": {
            "runAsNonRoot": true, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
    });
    merge(&mut app, container);
    let mut all = json!({
        "serviceAccountName": account, "terminationGracePeriodSeconds": 5, "enableServiceLinks": false,
        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [app],
    });
    merge(&mut all, spec);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": account, "labels": { "app": account } }, "spec": all,
    })
}

/// A second container of the test application that speaks only HTTP, on `port`.
#[must_use]
pub fn http_container(name: &str, port: u16) -> Value {
    let spec = pod("any", json!({}), json!({}));
    let mut container = spec["spec"]["containers"][0].clone();
    let (http, control) = (port.to_string(), (port + 1).to_string());
    let args = json!(["serve", "--only-http", http, "--control", control]);
    let probe = json!({ "httpGet": { "port": port } });
    merge(&mut container, json!({ "name": name, "args": args, "readinessProbe": probe }));
    container
}

/// Deploys applications together and waits until all are rolled out, and their Services have their endpoints: Kubernetes tells those a moment
/// later, and whoever asks before is told at once that there are none.
///
/// # Errors
/// When one is refused or not ready in a minute.
pub async fn deploy(cx: &Context, namespace: &str, apps: &[App]) -> Result<()> {
    for app in apps {
        cx.apply_yaml(namespace, &app.manifests().to_string()).await?;
    }
    for app in apps {
        let rolled_out = cx.rolled_out(namespace, &app.resource(), SOON).await;
        rolled_out.with_context(|| format!("{} in {namespace} is not ready", app.name))?;
        let what = format!("Service {namespace}/{} does not get its endpoints", app.name);
        cx.eventually(SOON, &what, || endpoints(cx, namespace, app)).await?;
    }
    Ok(())
}

/// Fails unless the application's Service has an endpoint that is ready for each replica.
async fn endpoints(cx: &Context, namespace: &str, app: &App) -> Result<()> {
    let api = Api::<EndpointSlice>::namespaced(cx.client(), namespace);
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={}", app.name));
    let slices = api.list(&of_service).await?;
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    // Not known is ready, by its definition.
    let ready = endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) != Some(false));
    // A pod with addresses of two families stands in two slices.
    let pods: BTreeSet<_> = ready.filter_map(|e| e.target_ref.as_ref()?.name.as_deref()).collect();
    ensure!(pods.len() >= app.replicas as usize, "ready of {}: {pods:?}", app.replicas);
    Ok(())
}

/// Merges objects key by key, null removing; anything else replaces (RFC 7396).
pub fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else {
        *into = from;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let Some(into) = into.as_object_mut() else { return };
    for (key, value) in from {
        if value.is_null() {
            into.remove(&key);
        } else {
            merge(into.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_replaces_and_removes() {
        let mut into = json!({ "a": { "b": 1, "c": 2 }, "d": [1] });
        merge(&mut into, json!({ "a": { "b": null, "e": 3 }, "d": [2] }));
        assert_eq!(into, json!({ "a": { "c": 2, "e": 3 }, "d": [2] }));
    }

    #[test]
    fn a_stateful_application_is_headless() {
        let list = App::new("db").stateful().label("x", "y").manifests();
        assert_eq!(list["items"][1]["kind"], "StatefulSet");
        assert_eq!(list["items"][1]["spec"]["template"]["metadata"]["labels"], json!({ "app": "db", "x": "y" }));
        assert_eq!(list["items"][2]["spec"]["clusterIP"], "None");
    }
}
