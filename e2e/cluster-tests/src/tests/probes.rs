//! Probes of every kind keep their meaning under Strict: healthy is Ready, unhealthy is NotReady or restarted, a slow start is waited
//! for, and lifecycle hooks reach the application.
//!
//! Seen to fail: a probe that is answered by the proxy alone would keep the flipped pods Ready; one that the proxy refuses would
//! never let them become Ready.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::context::{Context, Figures, pods};
use crate::meshed::app::CONTAINER;
use crate::meshed::{self, App, Caller, MESH, SOON, app};

const KINDS: [&str; 4] = ["http", "tcp", "grpc", "exec"];
/// How long who starts slowly serves nothing.
const SLOW_START: Duration = Duration::from_secs(8);

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-probes", Some(MESH)).await?;
    let start = Instant::now();
    let mut apps = vec![slow_start()];
    for kind in KINDS {
        apps.push(App::new(&format!("ready-{kind}")).container(json!({ "readinessProbe": probe(kind, 2, 1) })));
        // Patient: nobody healthy is to be restarted because the machine is busy or stands still.
        let live = json!({
            "startupProbe": probe(kind, 10, 60), "readinessProbe": null, "livenessProbe": probe(kind, 10, 5),
        });
        apps.push(App::new(&format!("live-{kind}")).container(live));
    }
    cx.apply_yaml(&ns, &hooks().to_string()).await?;
    app::deploy(cx, &ns, &apps).await?;
    let deployed = start.elapsed();
    ensure!(deployed >= SLOW_START, "the slow start was not waited for");
    let restarts = meshed::no_restarts(cx, &ns, "").await.context("healthy pods")?;

    let flips = KINDS.map(|kind| readiness(cx, &ns, kind));
    futures_util::future::try_join_all(flips).await?;
    let flips = KINDS.map(|kind| liveness(cx, &ns, kind));
    futures_util::future::try_join_all(flips).await?;
    lifecycle(cx, &ns).await?;
    Ok(Figures::new()
        .with("container_restarts", restarts)
        .with("kinds", KINDS.len())
        .with("deploy_seconds", deployed.as_secs()))
}

/// Once a second; `seconds` is what an answer may take, `failures` how often in a row it may fail.
fn probe(kind: &str, seconds: u32, failures: u32) -> Value {
    let mut probe = match kind {
        "http" => json!({ "httpGet": { "path": "/healthz", "port": 8080 } }),
        "tcp" => json!({ "tcpSocket": { "port": 9001 } }),
        "grpc" => json!({ "grpc": { "port": 9090 } }),
        _ => json!({ "exec": { "command": ["/test-app", "ctl", "check", "exec"] } }),
    };
    // Merged over the default probe, whose httpGet must go unless it is the one.
    if kind != "http" {
        probe["httpGet"] = Value::Null;
    }
    app::merge(&mut probe, json!({ "periodSeconds": 1, "timeoutSeconds": seconds, "failureThreshold": failures }));
    probe
}

/// Serves nothing at first; its startup probe keeps liveness away meanwhile, which would end it after three seconds.
fn slow_start() -> App {
    App::new("slow").container(json!({
        "args": ["serve", "--start-after", SLOW_START.as_secs().to_string()],
        "startupProbe": probe("http", 10, 60), "livenessProbe": probe("http", 10, 3),
    }))
}

async fn readiness(cx: &Context, ns: &str, kind: &str) -> Result<()> {
    let name = format!("ready-{kind}");
    let pod = Caller::of(cx, ns, &name).await?;
    for (to, wanted) in [("off", false), ("on", true)] {
        pod.call(&["ctl", "health", kind, to]).await?;
        let api = Api::<Pod>::namespaced(cx.client(), ns);
        let is = |pod: Option<&Pod>| pod.is_some_and(|pod| pods::is_ready(pod) == wanted);
        let what = format!("Ready={wanted} after {kind} health was turned {to}");
        cx.await_condition(api, &pod.pod, &what, Duration::from_secs(30), is).await?;
    }
    let restarts = meshed::restarts(cx, ns, &format!("app={name}")).await?;
    ensure!(restarts == 0, "{name}: readiness restarted something");
    Ok(())
}

async fn liveness(cx: &Context, ns: &str, kind: &str) -> Result<()> {
    let name = format!("live-{kind}");
    let pod = Caller::of(cx, ns, &name).await?;
    pod.call(&["ctl", "health", kind, "off"]).await?;
    let api = Api::<Pod>::namespaced(cx.client(), ns);
    let restarted = |pod: Option<&Pod>| {
        pod.is_some_and(|pod| pods::is_ready(pod) && pods::restarts(pod).contains(&(CONTAINER.to_owned(), 1)))
    };
    let what = format!("a restart of the container after {kind} health was turned off");
    let pod = cx.await_condition(api, &pod.pod, &what, SOON, restarted).await?.context("the pod is gone")?;
    let others: Vec<_> = pods::restarts(&pod).into_iter().filter(|(c, n)| c != CONTAINER && *n > 0).collect();
    ensure!(others.is_empty(), "{name}: restarted too: {others:?}");
    Ok(())
}

/// The hooks of `app` call `helper`, a native sidecar of the application's own with a startup probe: what the mesh must rewrite too.
fn hooks() -> Value {
    let mut pod = app::pod("hooks", json!({}), json!({ "serviceAccountName": "default" }));
    let mut helper = pod["spec"]["containers"][0].clone();
    let helper_fields = json!({
        "name": "helper", "restartPolicy": "Always", "args": ["serve", "--linger", "15"],
        "readinessProbe": null, "startupProbe": probe("http", 10, 60),
    });
    app::merge(&mut helper, helper_fields);
    let mut main = app::http_container(CONTAINER, 8085);
    let hook = |name: &str| json!({ "httpGet": { "path": format!("/hook/{name}"), "port": 8080 } });
    main["lifecycle"] = json!({ "postStart": hook("postStart"), "preStop": hook("preStop") });
    pod["spec"]["initContainers"] = json!([helper]);
    pod["spec"]["containers"] = json!([main]);
    pod["spec"]["terminationGracePeriodSeconds"] = 40.into();
    pod
}

async fn lifecycle(cx: &Context, ns: &str) -> Result<()> {
    let pod = pods::name(&cx.ready_pod(ns, "app=hooks", SOON).await?);
    let told = cx.exec(ns, &pod, "helper", &["/test-app", "ctl", "hooks"]).await?;
    let told: Value = serde_json::from_str(&told)?;
    ensure!(told["hooks"] == json!({ "postStart": 1 }), "after the start: {told}");
    Api::<Pod>::namespaced(cx.client(), ns).delete(&pod, &DeleteParams::default()).await?;
    // The helper outlives the application by its linger, and with it the log.
    cx.eventually(SOON, "preStop did not reach the application", || async {
        let log = cx.logs(ns, &pod, "helper").await?;
        ensure!(log.contains("hook preStop"), "the helper's log: {log}");
        Ok(())
    })
    .await
}
