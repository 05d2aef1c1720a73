//! Pods of every shape that Kubernetes knows work in the mesh, or are refused with the reason and the remedy.
//!
//! Seen to fail: a Job whose sidecar lives on never completes; an init container that ran before the mesh could not reach a Strict
//! server; a refusal that became an admission shows as a pod that exists.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bowline_crds::names::{INJECT_LABEL, MESH_LABEL, SKIP_INBOUND_ANNOTATION};
use bowline_proxy::contract::{
    bootstrap::{PROXY_UID, SLOTS},
    reason::Reason,
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::context::{Context, Figures, pods};
use crate::meshed::app::CONTAINER;
use crate::meshed::{self, App, Caller, MESH, SOON, app, spiffe};

/// What only a pod with a token for the API server can ask with.
const API_SERVER: &str = "https://kubernetes.default.svc/version";
const CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-shapes", Some(MESH)).await?;
    let server = App::new("server");
    let db = App::new("db").stateful().replicas(2);
    // Its init container calls through the mesh before anything of the application runs.
    let first = client_container("first", &["get", "http://server/", "--until", "30"]);
    let early = App::new("early").spec(json!({ "initContainers": [first] }));
    let out = App::new("out").label(INJECT_LABEL, "false");
    app::deploy(cx, &ns, &[server, db, early, out, by_name()]).await?;
    app::deploy(cx, &ns, &own_dns()).await.context("pods whose DNS does not know the cluster's names")?;
    cx.apply_yaml(&ns, &several_containers().to_string()).await?;
    cx.apply_yaml(&ns, &host_ports().to_string()).await?;

    init_containers(cx, &ns).await.context("init containers")?;
    jobs(cx, &ns).await.context("Jobs")?;
    stateful(cx, &ns).await.context("StatefulSet")?;
    myself(cx, &ns).await.context("a pod that calls itself")?;
    two_in_one(cx, &ns).await.context("several containers")?;
    opted_out(cx, &ns).await.context("a pod that left the mesh")?;
    named_ports(cx, &ns).await.context("ports by name, probed sidecars of the application's own, no API token")?;
    on_the_node(cx, &ns).await.context("host ports")?;
    debugged(cx, &ns).await.context("an ephemeral container")?;
    without_cluster_dns(cx, &ns).await.context("pods whose DNS does not know the cluster's names")?;
    refusals(cx, &ns).await?;
    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    Ok(Figures::new().with("container_restarts", restarts))
}

fn client_container(name: &str, args: &[&str]) -> Value {
    let pod = app::pod("any", json!({ "name": name, "args": args, "readinessProbe": null }), json!({}));
    pod["spec"]["containers"][0].clone()
}

async fn init_containers(cx: &Context, ns: &str) -> Result<()> {
    let pod = Caller::of(cx, ns, "early").await?;
    let log = cx.logs(ns, &pod.pod, "first").await?;
    let report: Value =
        serde_json::from_str(log.trim()).with_context(|| format!("log of the init container: {log}"))?;
    ensure!(report["status"] == 200, "{report}");
    Ok(())
}

/// A Job, and one made by hand from a CronJob, end by themselves although sidecars run beside them.
async fn jobs(cx: &Context, ns: &str) -> Result<()> {
    let template = |name: &str| {
        let container = client_container("work", &["get", "http://server/", "--until", "30"]);
        let mut pod = app::pod(name, json!({}), json!({ "restartPolicy": "Never", "serviceAccountName": "default" }));
        pod["spec"]["containers"] = json!([container]);
        json!({ "template": { "spec": pod["spec"] }, "backoffLimit": 0 })
    };
    let job =
        json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "once" }, "spec": template("once") });
    let cron = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "nightly" },
        "spec": { "schedule": "0 3 1 1 *", "jobTemplate": { "spec": template("nightly") } },
    });
    for object in [job, cron] {
        cx.apply_yaml(ns, &object.to_string()).await?;
    }
    cx.kubectl(&["create", "job", "by-hand", "--from=cronjob/nightly", "-n", ns]).await?;
    for name in ["job/once", "job/by-hand"] {
        cx.kubectl(&["wait", "--for=condition=Complete", name, "-n", ns, "--timeout=60s"]).await?;
    }
    let api = Api::<Pod>::namespaced(cx.client(), ns);
    for pod in api.list(&kube::api::ListParams::default().labels("job-name=once")).await? {
        let phase = pod.status.clone().and_then(|s| s.phase);
        ensure!(phase.as_deref() == Some("Succeeded"), "{} is {phase:?}", pods::name(&pod));
        ensure!(has_sidecar(&pod), "the Job's pod was not in the mesh");
    }
    Ok(())
}

fn has_sidecar(pod: &Pod) -> bool {
    let init = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref());
    init.into_iter().flatten().any(|c| c.name == SLOTS[0])
}

/// Each pod of a headless Service by its own name, by mutual TLS.
async fn stateful(cx: &Context, ns: &str) -> Result<()> {
    let client = Caller::of(cx, ns, "early").await?;
    for pod in ["db-0", "db-1"] {
        // A headless Service translates no ports: the containers' own are called.
        let url = format!("http://{pod}.db:8080/");
        let saw = cx.eventually(SOON, &format!("{url} is not reached"), || client.echo(&url)).await?;
        ensure!(saw["pod"] == pod, "{url} reached {saw}");
        let talk = client.call(&["tcp", &format!("{pod}.db:5555"), "--banner", "--half-close"]).await?;
        ensure!(talk["banner"] == format!("banner {pod}"), "{talk}");
        let found = Api::<Pod>::namespaced(cx.client(), ns).get(pod).await?;
        let metrics = meshed::scrape_one(cx, pods::ip(&found)?).await?;
        let labels = [("direction", "inbound"), ("peer", &spiffe(ns, "early"))];
        let counted = metrics.sum("bowline_http_requests_total", &labels);
        ensure!(counted >= 1.0, "{pod} counted {counted} requests of {}", labels[1].1);
    }
    client.echo("http://db:8080/").await.map(drop)
}

async fn myself(cx: &Context, ns: &str) -> Result<()> {
    let server = Caller::of(cx, ns, "server").await?;
    for url in ["http://server/".to_owned(), format!("http://{}:8080/", server.ip), "http://localhost:8080/".into()] {
        let saw = server.echo(&url).await?;
        ensure!(saw["pod"] == server.pod.as_str(), "{url}: {saw}");
    }
    server.call(&["tcp", "server:9000", "--half-close"]).await.map(drop)
}

fn several_containers() -> Value {
    let mut pod = app::pod("pair", json!({}), json!({ "serviceAccountName": "default" }));
    if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
        containers.push(app::http_container("second", 8085));
    }
    pod
}

async fn two_in_one(cx: &Context, ns: &str) -> Result<()> {
    let pair = Caller::of(cx, ns, "pair").await?;
    let client = Caller::of(cx, ns, "early").await?;
    for port in [8080, 8085] {
        client.echo(&format!("http://{}:{port}/", pair.ip)).await?;
        // Containers of one pod reach each other over loopback, which the mesh leaves alone.
        pair.echo(&format!("http://127.0.0.1:{port}/")).await?;
    }
    let ran = cx.exec_code(ns, &pair.pod, "second", &["/test-app", "get", "http://server/"]).await?;
    ensure!(ran.code == 0, "from the second container: {ran:?}");
    Ok(())
}

/// Pods with the node's resolver, which here knows nothing, and with one that never answers.
fn own_dns() -> [App; 2] {
    let silent = json!({ "dnsPolicy": "None", "dnsConfig": { "nameservers": ["192.0.2.53"] } });
    [App::new("node-dns").spec(json!({ "dnsPolicy": "Default" })), App::new("own-dns").spec(silent)]
}

/// They started, so their proxies found the control plane; they are called and call, by address, as members.
async fn without_cluster_dns(cx: &Context, ns: &str) -> Result<()> {
    let client = Caller::of(cx, ns, "early").await?;
    let server = Caller::of(cx, ns, "server").await?;
    for app in ["node-dns", "own-dns"] {
        let pod = Caller::of(cx, ns, app).await?;
        let saw = client.echo(&format!("http://{app}/")).await?;
        ensure!(saw["pod"] == pod.pod.as_str(), "{app}: {saw}");
        let saw = pod.echo(&format!("http://{}:8080/", server.ip)).await?;
        ensure!(saw["pod"] == server.pod.as_str(), "from {app}: {saw}");
    }
    Ok(())
}

async fn opted_out(cx: &Context, ns: &str) -> Result<()> {
    let out = cx.ready_pod(ns, "app=out", SOON).await?;
    ensure!(!has_sidecar(&out), "it has a sidecar all the same");
    let client = Caller::of(cx, ns, "early").await?;
    let saw = client.echo("http://out/").await?;
    ensure!(saw["pod"] == pods::name(&out).as_str(), "{saw}");
    let plain = Caller::of(cx, ns, "out").await?.run(&["get", "http://server/", "--timeout", "5"]).await?;
    ensure!(plain["status"] != 200, "a Strict server answered a pod outside the mesh: {plain}");
    Ok(())
}

/// Everything by the names of ports: probes of the application and of its own native sidecar, and a Service; without a token for the API
/// server, from which the proxy's is independent.
fn by_name() -> App {
    let mut helper = app::http_container("helper", 8085);
    // Patient: nobody is to be restarted because the machine is busy or stands still.
    let probe = |name: &str, failures: u32| {
        let get = json!({ "path": "/healthz", "port": name });
        json!({ "httpGet": get, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": failures })
    };
    let fields = json!({
        "restartPolicy": "Always", "ports": [{ "name": "help", "containerPort": 8085 }],
        "startupProbe": probe("help", 60), "readinessProbe": probe("help", 5), "livenessProbe": probe("help", 5),
    });
    app::merge(&mut helper, fields);
    let web = json!({
        "ports": [{ "name": "web", "containerPort": 8080 }],
        "startupProbe": probe("web", 60), "readinessProbe": probe("web", 5), "livenessProbe": probe("web", 5),
    });
    App::new("named").container(web).spec(json!({ "initContainers": [helper], "automountServiceAccountToken": false }))
}

async fn named_ports(cx: &Context, ns: &str) -> Result<()> {
    let ports = [("web", 80, "web"), ("help", 81, "help")];
    let ports = ports.map(|(name, port, target)| json!({ "name": name, "port": port, "targetPort": target }));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "by-name" },
        "spec": { "selector": { "app": "named" }, "ports": ports },
    });
    cx.apply_yaml(ns, &service.to_string()).await?;
    let named = Caller::of(cx, ns, "named").await?;
    let client = Caller::of(cx, ns, "early").await?;
    for url in ["http://by-name/", "http://by-name:81/"] {
        let saw = cx.eventually(SOON, &format!("{url} is not reached"), || client.echo(url)).await?;
        ensure!(saw["pod"] == named.pod.as_str(), "{url} reached {saw}");
    }
    let labels = [("direction", "inbound"), ("peer", &spiffe(ns, "early"))];
    let counted = meshed::scrape_one(cx, named.ip).await?.sum("bowline_http_requests_total", &labels);
    ensure!(counted >= 2.0, "{counted} requests of {}", labels[1].1);
    let none = cx.exec_code(ns, &named.pod, CONTAINER, &["/test-app", "get", API_SERVER, "--ca", CA]).await?;
    ensure!(none.code != 0 && none.stdout.contains("No such file"), "the pod has a token for the API server: {none:?}");
    named.echo("http://server/").await.map(drop)
}

/// Port 8080 as any, port 8081 left alone by the mesh.
fn host_ports() -> Value {
    let ports = json!([{ "containerPort": 8080, "hostPort": 18080 }, { "containerPort": 8081, "hostPort": 18081 }]);
    let mut pod = app::pod("hosted", json!({ "ports": ports }), json!({ "serviceAccountName": "default" }));
    pod["metadata"]["annotations"] = json!({ SKIP_INBOUND_ANNOTATION: "8081" });
    pod
}

/// Who comes through the node is no member: a Strict workload refuses it, unless the port is left alone. To members nothing changes.
async fn on_the_node(cx: &Context, ns: &str) -> Result<()> {
    let hosted = cx.ready_pod(ns, "app=hosted", SOON).await?;
    let node = hosted.status.as_ref().and_then(|s| s.host_ip.clone()).context("the pod is on no node")?;
    let (client, name) = (Caller::of(cx, ns, "early").await?, pods::name(&hosted));
    for port in [8080, 8081] {
        let saw = client.echo(&format!("http://{}:{port}/", pods::ip(&hosted)?)).await?;
        ensure!(saw["pod"] == name.as_str(), "{saw}");
    }
    let refused = client.call(&["get", &format!("http://{node}:18080/")]).await?;
    let reason = &refused["headers"]["bowline-reason"];
    ensure!(refused["status"] == 403 && reason == Reason::MtlsRequired.as_str(), "through the node: {refused}");
    let saw = client.echo(&format!("http://{node}:18081/")).await.context("a port that is left alone")?;
    ensure!(saw["pod"] == name.as_str(), "{saw}");
    Ok(())
}

/// As `kubectl debug` adds it to a running pod: it is in the pod's network, and so in the mesh.
async fn debugged(cx: &Context, ns: &str) -> Result<()> {
    let api = Api::<Pod>::namespaced(cx.client(), ns);
    let name = Caller::of(cx, ns, "named").await?.pod;
    let container = client_container("debugger", &["get", "http://server/", "--until", "30"]);
    let patch = json!({ "spec": { "ephemeralContainers": [container] } });
    api.patch_ephemeral_containers(&name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    let ended = |pod: Option<&Pod>| {
        let statuses = pod.and_then(|p| p.status.as_ref()?.ephemeral_container_statuses.as_ref());
        statuses.into_iter().flatten().any(|s| s.state.as_ref().is_some_and(|s| s.terminated.is_some()))
    };
    cx.await_condition(api, &name, "the end of its ephemeral container", SOON, ended).await?;
    let log = cx.logs(ns, &name, "debugger").await?;
    let report: Value = serde_json::from_str(log.trim()).with_context(|| format!("its log: {log}"))?;
    ensure!(report["status"] == 200, "{report}");
    Ok(())
}

/// What cannot be meshed is refused at admission; the message names the trouble and the way out.
async fn refusals(cx: &Context, ns: &str) -> Result<()> {
    let pod = |container: Value, spec: Value| {
        let mut all = spec;
        all["serviceAccountName"] = "default".into();
        app::pod("refused", container, all)
    };
    let host = pod(json!({}), json!({ "hostNetwork": true }));
    refused(cx, ns, &host, &["host", "bowline.dev/inject"]).await?;
    let ours = pod(json!({ "ports": [{ "containerPort": 15008 }] }), json!({}));
    refused(cx, ns, &ours, &["15008", CONTAINER]).await?;
    let user = pod(json!({ "securityContext": { "runAsUser": PROXY_UID } }), json!({}));
    refused(cx, ns, &user, &["15001"]).await?;
    let windows =
        pod(json!({ "securityContext": null }), json!({ "os": { "name": "windows" }, "securityContext": null }));
    refused(cx, ns, &windows, &["indows"]).await?;

    let labels = [(MESH_LABEL, MESH), ("pod-security.kubernetes.io/enforce", "restricted")];
    let labels: BTreeMap<_, _> = labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let restricted = cx.labelled_ns("e2e-shapes-restricted", labels).await?;
    let good = pod(json!({}), json!({}));
    refused(cx, &restricted, &good, &["pod-security.kubernetes.io/enforce", "NET_ADMIN"]).await
}

async fn refused(cx: &Context, ns: &str, pod: &Value, words: &[&str]) -> Result<()> {
    let applied = async { cx.apply_yaml(ns, &pod.to_string()).await };
    let Err(error) = tokio::time::timeout(Duration::from_secs(20), applied).await? else {
        bail!("admitted, although it should be refused for {words:?}");
    };
    let message = format!("{error:#}");
    for word in words {
        ensure!(message.contains(word), "the refusal does not speak of {word:?}: {message}");
    }
    Ok(())
}
