//! The standby's image is replaced in a running pod: the pod stays Ready, the application's container is not touched, no request
//! fails.
//!
//! Seen to fail: every event of the watch is looked at, so that a moment of NotReady is caught; patching the serving slot instead
//! breaks the held streams.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use bowline_proxy::contract::bootstrap::{SLOTS, ports};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;

use crate::context::{Context, Figures, pods};
use crate::meshed::{self, App, Caller, MESH, SOON, app};
use e2e::host::shell::Cmd;
use e2e::images::product::image_name;
use e2e::nodes::node_files::containerd_socket;
use e2e::nodes::state::Record;
use e2e::programs::kubernetes::Programs;

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let image = other_tag(cx).await?;
    let ns = cx.temp_ns("e2e-standby", Some(MESH)).await?;
    app::deploy(cx, &ns, &[App::new("server"), App::new("client")]).await?;
    let client = Caller::of(cx, &ns, "client").await?;
    let server = Caller::of(cx, &ns, "server").await?;
    let standby = other_slot(&serving_slot(&server).await?)?;
    let api = Api::<Pod>::namespaced(cx.client(), &ns);
    let before = containers(&api.get(&server.pod).await?);

    let watch = ReadyWatch::start(&api, &server.pod);
    let load = ["--url", "http://server/", "--rate", "100", "--streams", "4", "--tcp", "server:9000"];
    client.steady_load(&load, 5).await?;
    let index = usize::from(standby == SLOTS[1]);
    let patch = json!([{ "op": "replace", "path": format!("/spec/initContainers/{index}/image"), "value": image }]);
    let patch = Patch::Json::<()>(serde_json::from_value(patch)?);
    let start = Instant::now();
    api.patch(&server.pod, &PatchParams::default(), &patch).await?;
    let replaced = |pod: Option<&Pod>| {
        let after = pod.map(containers).unwrap_or_default();
        after.get(standby).is_some_and(|c| c.running && Some(&c.id) != before.get(standby).map(|c| &c.id))
    };
    let pod = cx.await_condition(api.clone(), &server.pod, "a running new standby", SOON, replaced).await?;
    let seconds = start.elapsed().as_secs_f64();
    let after = containers(&pod.context("the pod is gone")?);
    for (name, container) in &before {
        let same = after.get(name).is_some_and(|now| now.id == container.id && now.restarts == container.restarts);
        ensure!(same || name == standby, "{name} was touched: {container:?} became {:?}", after.get(name));
    }
    for _ in 0..20 {
        client.get("http://server/").await?;
    }
    let load = client.stop_load().await?;
    load.flawless(5)?;
    let events = watch.stop()?;
    let restarts: i32 = after.iter().filter(|(name, _)| *name != standby).map(|(_, c)| c.restarts).sum();
    Ok(load
        .figures(Figures::new())
        .with("container_restarts", restarts)
        .with("replace_seconds", (seconds * 10.0).round() / 10.0)
        .with("watch_events", events))
}

/// Gives the proxy's image a second name on every node, as if it were another version.
async fn other_tag(cx: &Context) -> Result<String> {
    let (image, other) = (image_name("bowline-proxy"), format!("{}-again", image_name("bowline-proxy")));
    let record = Record::read(cx.env())?.context("no record of the cluster")?;
    let ctr = Programs::locate(cx.env())?.path("ctr")?;
    for node in &record.nodes {
        let socket = containerd_socket(&cx.env().state, node.number);
        Cmd::new(&ctr)
            .args(["--address".as_ref(), socket.as_os_str()])
            .args(["--namespace", "k8s.io", "images", "tag", "--force", &image, &other])
            .output()
            .await?;
    }
    Ok(other)
}

/// Which slot serves the pod, by its own word.
async fn serving_slot(pod: &Caller<'_>) -> Result<String> {
    let url = format!("http://127.0.0.1:{}/config", ports::ADMIN);
    let report = pod.get(&url).await?;
    let config: serde_json::Value = serde_json::from_str(report["body"].as_str().unwrap_or_default())?;
    let slot = config["slot"].as_str().with_context(|| format!("/config does not tell the slot: {config}"))?;
    Ok(format!("bowline-{slot}"))
}

fn other_slot(serving: &str) -> Result<&'static str> {
    SLOTS.into_iter().find(|slot| *slot != serving).with_context(|| format!("no slot but {serving}"))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Container {
    id: String,
    restarts: i32,
    running: bool,
}

fn containers(pod: &Pod) -> BTreeMap<String, Container> {
    let statuses = pod.status.iter().flat_map(|s| [&s.init_container_statuses, &s.container_statuses]);
    let all = statuses.flatten().flatten().map(|c| {
        let running = c.state.as_ref().is_some_and(|s| s.running.is_some());
        let id = c.container_id.clone().unwrap_or_default();
        (c.name.clone(), Container { id, restarts: c.restart_count, running })
    });
    all.collect()
}

/// Looks at every change of a pod.
struct ReadyWatch {
    task: tokio::task::JoinHandle<()>,
    /// Events so far, and the first trouble.
    seen: Arc<Mutex<(u64, Option<String>)>>,
}

impl ReadyWatch {
    fn start(api: &Api<Pod>, name: &str) -> Self {
        let seen = Arc::new(Mutex::new((0, None)));
        let into = Arc::clone(&seen);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let changes = watcher(api.clone(), config).default_backoff().applied_objects();
        let task = tokio::spawn(async move {
            let mut changes = std::pin::pin!(changes);
            while let Some(change) = changes.next().await {
                // A watch that breaks is taken up again where it was.
                let Ok(pod) = change else { continue };
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                seen.0 += 1;
                if !pods::is_ready(&pod) {
                    seen.1.get_or_insert_with(|| format!("the pod was not Ready: {:?}", containers(&pod)));
                }
            }
        });
        Self { task, seen }
    }

    fn stop(self) -> Result<u64> {
        self.task.abort();
        match &*self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
            (_, Some(trouble)) => bail!("{trouble}"),
            // The first state, and at least the standby going and coming.
            (events, None) if *events < 3 => bail!("the watch saw only {events} events: it was blind"),
            (events, None) => Ok(*events),
        }
    }
}
