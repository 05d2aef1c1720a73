//! A cluster of its own beside the one that tests run on: up, crash, up again, more nodes, down; then the machine looks as before.
//!
//! Seen to fail: with what a killed addition leaves of a node, `ip` says "File exists" to the next one.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::state::Record;
use crate::cluster::{self, cgroups, network, node_files};
use crate::context::{Context, Figures};
use crate::env::Env;
use crate::images::{self, Image};
use crate::lock::Lock;
use crate::programs::Programs;
use crate::shell::{Cmd, which};

const STATE: &str = "/var/tmp/bowline-e2e-second";
/// An image that the cluster was given while it ran.
const EXTRA: &str = "e2e-extra";

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    let env = cx.env().with_state(STATE.into());
    let _lock = Lock::take(&env.lock(), "the test cluster_leaves_nothing").await?;
    // What an aborted run left is not this run's fault.
    cluster::down(&env).await?;
    let before = Machine::now(&env)?;

    let start = Instant::now();
    cluster::up(&env, Some(1)).await?;
    let up = start.elapsed().as_secs_f64();
    let first = init(&env)?;
    ensure!(Machine::now(&env)? != before, "a running cluster leaves no trace: this test looks in the wrong places");

    cluster::up(&env, Some(1)).await?;
    ensure!(init(&env)? == first, "`up` restarted a healthy cluster");

    first.kill();
    let start = Instant::now();
    cluster::up(&env, Some(1)).await.context("after a crash of the node")?;
    let again = start.elapsed().as_secs_f64();
    ensure!(init(&env)? != first, "`up` did not notice that the node had died");

    let start = Instant::now();
    add_nodes(&env).await.context("further nodes")?;
    let add = start.elapsed().as_secs_f64();

    let start = Instant::now();
    cluster::down(&env).await?;
    let down = start.elapsed().as_secs_f64();
    let after = Machine::now(&env)?;
    before.compare(&after)?;

    let tenth = |seconds: f64| (seconds * 10.0).round() / 10.0;
    Ok(Figures::new()
        .with("up_seconds", tenth(up))
        .with("up_after_crash_seconds", tenth(again))
        .with("up_with_two_more_nodes_seconds", tenth(add))
        .with("down_seconds", tenth(down)))
}

/// Nodes come to a running cluster, although an earlier attempt was killed, and get the images that it has.
async fn add_nodes(env: &Env) -> Result<()> {
    let first = init(env)?;
    let extra = images::third_party(env, EXTRA, (which("busybox").context("no busybox")?, "busybox"));
    let extra = Image { containerfile: env.root.join("e2e/images/busybox"), ..extra };
    let archive = extra.build(env).await?;
    images::load::on_all_nodes(env, &[archive]).await?;

    // As far as it can get without being written down.
    cgroups::create(env, 2)?;
    network::create_node(env, 2, &[1]).await?;
    cluster::up(env, Some(3)).await.context("after an addition that was killed")?;
    ensure!(init(env)? == first, "the first node was started anew for the others' sake");
    let record = Record::read(env)?.context("no record of the cluster")?;
    let numbers: Vec<_> = record.nodes.iter().map(|node| node.number).collect();
    ensure!(numbers == [1, 2, 3], "the nodes are {numbers:?}");
    let nodes = cluster::kubectl_command(env)?.args(["get", "nodes", "--no-headers"]).output().await?;
    ensure!(nodes.lines().filter(|line| line.contains(" Ready ")).count() == 3, "not three nodes are ready: {nodes}");
    let ctr = Programs::locate(env)?.path("ctr")?;
    for node in &record.nodes {
        let socket = node_files::containerd_socket(&env.state, node.number);
        let list = ["--namespace", "k8s.io", "images", "list", "--quiet"];
        let images = Cmd::new(&ctr).args(["--address".as_ref(), socket.as_os_str()]).args(list).output().await?;
        ensure!(images.contains(&extra.name), "node {} lacks {}: {images}", node.number, extra.name);
    }
    Ok(())
}

fn init(env: &Env) -> Result<cluster::state::Process> {
    let record = Record::read(env)?.context("no record of the cluster")?;
    Ok(record.nodes.first().context("the cluster has no node")?.init)
}

/// What a cluster could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    namespaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
    directories: BTreeSet<String>,
}

impl Machine {
    fn now(env: &Env) -> Result<Self> {
        // Other clusters on the machine come and go as they like.
        let ours = |name: &str| name.starts_with(&env.instance) || !name.starts_with("bowline");
        let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| ours(&last(path)));
        let hierarchies = names("/sys/fs/cgroup");
        let cgroups = hierarchies.iter().flat_map(|h| names(format!("/sys/fs/cgroup/{h}")));
        let state = env.state.to_string_lossy();
        let mut directories: BTreeSet<String> = ["/var/lib", "/var/log", "/run", "/opt", "/etc", "/usr/libexec"]
            .into_iter()
            .flat_map(|dir| names(dir).into_iter().map(move |name| format!("{dir}/{name}")))
            .collect();
        directories.extend(env.state.exists().then(|| state.to_string()));
        Ok(Self {
            namespaces: names("/run/netns").into_iter().filter(|name| ours(name)).collect(),
            mounts: mounts.map(str::to_owned).collect(),
            cgroups: cgroups.chain(hierarchies.iter().cloned()).filter(|name| ours(name)).collect(),
            processes: names("/proc").into_iter().filter(|pid| belongs(pid, &state)).collect(),
            directories,
        })
    }

    fn compare(&self, after: &Self) -> Result<()> {
        let kinds = [
            ("network namespaces", &self.namespaces, &after.namespaces),
            ("mounts", &self.mounts, &after.mounts),
            ("cgroups", &self.cgroups, &after.cgroups),
            ("processes", &self.processes, &after.processes),
            ("directories", &self.directories, &after.directories),
        ];
        for (kind, before, after) in kinds {
            let more: Vec<_> = after.difference(before).cloned().collect();
            ensure!(more.is_empty(), "{kind} left behind: {}", more.join(", "));
        }
        Ok(())
    }
}

fn names(dir: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether a process names the cluster's state directory on its command line.
fn belongs(pid: &str, state: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(state)
}
