//! The cluster itself: what every other test takes for granted.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Api;

use crate::context::{Context, Figures, pods};

/// Two busybox pods on different nodes (as far as there are two), and a Service in front of one.
const PODS: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: localhost/busybox:1
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'hostname > /tmp/index.html; exec httpd -f -p 8000 -h /tmp']
        readinessProbe: {httpGet: {path: /, port: 8000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}
"#;

/// What starting and catching up may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    let nodes = Api::<Node>::all(cx.client()).list(&Default::default()).await?.items;
    let ns = cx.temp_ns("e2e-cluster", None).await?;
    let start = Instant::now();
    cx.apply_yaml(&ns, PODS).await?;
    cx.rolled_out(&ns, "deployment/web", SOON).await?;
    let rollout = start.elapsed().as_secs_f64();

    let web = cx.pods(&ns, "app=web").await?;
    ensure!(web.len() == 2, "{} pods instead of 2", web.len());
    let first = pods::name(&web[0]);
    let lookup = ["nslookup", "web.e2e-cluster.svc.cluster.local."];
    let address = cx.eventually(SOON, "DNS does not answer", || cx.exec(&ns, &first, "web", &lookup)).await?;
    ensure!(address.contains("10.96.") || cx.env().kubeconfig.is_some(), "DNS answered {address}");

    for pod in &web {
        let url = format!("http://{}:8000/", pods::ip(pod)?);
        let body = cx.exec(&ns, &first, "web", &["timeout", "20", "wget", "-qO-", &url]).await?;
        ensure!(body.trim() == pods::name(pod), "{url} answered {body:?}");
        let answer = cx.http_get(pods::ip(pod)?, 8000, "/").await?;
        ensure!(answer.status() == 200, "{url} answered {} from outside", answer.status());
    }
    // A Service is reachable once every node's rules have caught up.
    cx.eventually(SOON, "the Service does not answer", || {
        cx.exec(&ns, &first, "web", &["timeout", "10", "wget", "-qO-", "http://web/"])
    })
    .await?;
    let ran = cx.exec_code(&ns, &first, "web", &["sh", "-c", "echo out; echo err >&2; exit 3"]).await?;
    ensure!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code) == ("out\n", "err\n", 3), "exec gave {ran:?}");
    Ok(Figures::new().with("nodes", nodes.len()).with("rollout_seconds", (rollout * 10.0).round() / 10.0))
}
