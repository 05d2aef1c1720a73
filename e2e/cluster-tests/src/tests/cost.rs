//! What the mesh costs: memory and CPU of proxies and operator at rest and under load, and the latency that two proxies add.
//!
//! Figures for people more than a test; it fails when a request fails, or when a proxy at rest is larger than promised.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::context::{Context, Figures};
use crate::meshed::{self, App, Caller, Load, MESH, app, operator};

/// Resident bytes of a proxy at rest, at most.
const IDLE_BYTES: f64 = 20.0 * 1024.0 * 1024.0;
/// How long rest is watched.
const REST: Duration = Duration::from_secs(10);

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-cost", Some(MESH)).await?;
    let plain = cx.temp_ns("e2e-cost-plain", None).await?;
    for namespace in [&ns, &plain] {
        app::deploy(cx, namespace, &[App::new("server"), App::new("client")]).await?;
    }
    let client = Caller::of(cx, &ns, "client").await?;
    let server = Caller::of(cx, &ns, "server").await?;
    let mut figures = Figures::new();

    nothing_ends(cx).await?;
    let before = [process(cx, &client).await?, process(cx, &server).await?];
    let operator_before = operators(cx).await?;
    let start = Instant::now();
    // Rest needs time to pass.
    sleep(REST).await;
    let idle = process(cx, &server).await?;
    let seconds = start.elapsed().as_secs_f64();
    figures.set("proxy_idle_mib", mib(idle.bytes)).set("proxy_idle_cpu_ms_per_s", rate(&before[1], &idle, seconds));
    ensure!(idle.bytes <= IDLE_BYTES, "a proxy at rest takes {} MiB", mib(idle.bytes));
    let operator_after = operators(cx).await?;
    figures.set("operator_mib", mib(operator_after.bytes));
    figures.set("operator_idle_cpu_ms_per_s", rate(&operator_before, &operator_after, seconds));

    let seconds = if cx.long() { "45" } else { "10" };
    let load =
        ["load", "--rate", "1000", "--fresh-percent", "0", "--seconds", seconds, "--url", "http://server/bytes/100"];
    let outsider = Caller::of(cx, &plain, "client").await?;
    let direct = measured(&outsider, &load).await?;
    let before = [process(cx, &client).await?, process(cx, &server).await?];
    let start = Instant::now();
    let meshed = measured(&client, &load).await?;
    let took = start.elapsed().as_secs_f64();
    let after = [process(cx, &client).await?, process(cx, &server).await?];
    for (n, side) in ["outbound", "inbound"].into_iter().enumerate() {
        figures.set(&format!("{side}_1000rps_mib"), mib(after[n].bytes));
        figures.set(&format!("{side}_1000rps_cpu_ms_per_s"), rate(&before[n], &after[n], took));
    }
    let mut restarts = 0;
    for namespace in [&ns, &plain] {
        restarts += meshed::no_restarts(cx, namespace, "").await?;
    }
    figures.set("container_restarts", restarts);
    let hundredth = |ms: f64| (ms * 100.0).round() / 100.0;
    for (name, of) in [("p50_ms", |l: &Load| l.p50_ms), ("p99_ms", |l: &Load| l.p99_ms)] as [(_, fn(&Load) -> f64); 2] {
        figures.set(&format!("direct_{name}"), hundredth(of(&direct)));
        figures.set(&format!("added_{name}"), hundredth(of(&meshed) - of(&direct)));
    }
    Ok(meshed.figures(figures))
}

/// Waits until no namespace of an earlier test is being deleted any more: its end is work for the operator. Kubernetes looks at one that still
/// holds something only after half a minute again, and on a busy machine more than once.
async fn nothing_ends(cx: &Context) -> Result<()> {
    cx.eventually(Duration::from_secs(180), "the cluster does not come to rest", || async {
        let all = Api::<Namespace>::all(cx.client()).list(&ListParams::default()).await?;
        let ending = all.iter().filter(|ns| ns.metadata.deletion_timestamp.is_some());
        let ending: Vec<_> = ending.map(ResourceExt::name_any).collect();
        ensure!(ending.is_empty(), "being deleted: {}", ending.join(", "));
        Ok(())
    })
    .await
}

async fn measured(client: &Caller<'_>, load: &[&str]) -> Result<Load> {
    // Once to warm up: connections, caches, destinations.
    client.get("http://server/").await?;
    let report: Value = client.call(load).await?;
    let load: Load = serde_json::from_value(report)?;
    load.flawless(0)?;
    Ok(load)
}

/// What a process says of itself.
#[derive(Clone, Copy, Debug, Default)]
struct Process {
    bytes: f64,
    cpu_seconds: f64,
}

async fn process(cx: &Context, pod: &Caller<'_>) -> Result<Process> {
    let metrics = meshed::scrape_one(cx, pod.ip).await?;
    let cpu_seconds = metrics.sum("process_cpu_seconds_total", &[]);
    Ok(Process { bytes: metrics.sum("process_resident_memory_bytes", &[]), cpu_seconds })
}

/// The largest of the operator's replicas, and the CPU of all; zeros where its processes are not of this machine.
async fn operators(cx: &Context) -> Result<Process> {
    let mut all = Process::default();
    for pod in operator::pods(cx).await? {
        let Some(pid) = operator::process(&pod)? else { continue };
        let proc = std::path::PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let status = std::fs::read_to_string(proc.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap_or_default();
        all.bytes = all.bytes.max(kib * 1024.0);
        // Nanoseconds on a processor come first (Linux, Documentation/scheduler/sched-stats.rst); of all threads.
        for task in std::fs::read_dir(proc.join("task"))?.flatten() {
            let spent = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanoseconds: f64 = spent.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
            all.cpu_seconds += nanoseconds / 1e9;
        }
    }
    Ok(all)
}

fn mib(bytes: f64) -> f64 {
    (bytes / 1024.0 / 1024.0 * 10.0).round() / 10.0
}

/// Milliseconds of CPU for each second that passed.
fn rate(before: &Process, after: &Process, seconds: f64) -> f64 {
    ((after.cpu_seconds - before.cpu_seconds) * 1000.0 / seconds * 100.0).round() / 100.0
}
