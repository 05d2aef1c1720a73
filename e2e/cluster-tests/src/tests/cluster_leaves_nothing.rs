//! A cluster of its own beside the one that tests run on: up, crash, up again, more nodes, down; then the machine looks as before.
//!
//! Seen to fail: with what a killed addition leaves of a node, `ip` says "File exists" to the next one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::context::{Context, Figures};
use e2e::cluster::{kubectl, up};
use e2e::host::env::Env;
use e2e::host::lock::Lock;
use e2e::host::shell::{Cmd, which};
use e2e::images::build::Image;
use e2e::images::{base, load};
use e2e::nodes::state::{Process, Record};
use e2e::nodes::{cgroups, network, node_files};
use e2e::programs::kubernetes::Programs;

const STATE: &str = "/var/tmp/bowline-e2e-second";
/// An image that the cluster was given while it ran.
const EXTRA: &str = "e2e-extra";

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    let env = cx.env().with_state(STATE.into());
    let _lock = Lock::take(&env.lock(), "the test cluster_leaves_nothing").await?;
    // What an aborted run left is not this run's fault.
    up::down(&env).await?;
    let before = Machine::now(&env)?;
    let mut traces = Traces::of(&env);

    let start = Instant::now();
    up::up(&env, Some(1)).await?;
    let up = start.elapsed().as_secs_f64();
    let first = init(&env)?;
    traces.learn(&env)?;
    let found = before.compare(&Machine::now(&env)?, &traces);
    ensure!(found.is_err(), "a running cluster leaves no trace: this test looks in the wrong places");

    up::up(&env, Some(1)).await?;
    ensure!(init(&env)? == first, "`up` restarted a healthy cluster");

    first.kill();
    let start = Instant::now();
    up::up(&env, Some(1)).await.context("after a crash of the node")?;
    let again = start.elapsed().as_secs_f64();
    ensure!(init(&env)? != first, "`up` did not notice that the node had died");
    traces.learn(&env)?;

    let start = Instant::now();
    add_nodes(&env).await.context("further nodes")?;
    let add = start.elapsed().as_secs_f64();

    let start = Instant::now();
    up::down(&env).await?;
    let down = start.elapsed().as_secs_f64();
    before.compare(&Machine::now(&env)?, &traces)?;

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
    let extra = base::third_party(env, EXTRA, (which("busybox").context("no busybox")?, "busybox"));
    let extra = Image { containerfile: env.root.join("e2e/images/busybox"), ..extra };
    let archive = extra.build(env).await?;
    load::on_all_nodes(env, &[archive]).await?;

    // As far as it can get without being written down.
    cgroups::create(env, 2)?;
    network::create_node(env, 2, &[1]).await?;
    up::up(env, Some(3)).await.context("after an addition that was killed")?;
    ensure!(init(env)? == first, "the first node was started anew for the others' sake");
    // Written down, and killed before it had its images.
    let third = node(env, 3)?;
    std::fs::remove_file(node_files::images_ready(&env.state, 3))?;
    up::up(env, Some(3)).await.context("after an addition that was killed late")?;
    ensure!(!third.alive() && node(env, 3)?.alive(), "a node without images was left as it was");
    ensure!(init(env)? == first, "the first node was started anew for the third's sake");

    let record = Record::read(env)?.context("no record of the cluster")?;
    let numbers: Vec<_> = record.nodes.iter().map(|node| node.number).collect();
    ensure!(numbers == [1, 2, 3], "the nodes are {numbers:?}");
    let nodes = kubectl::kubectl_command(env)?.args(["get", "nodes", "--no-headers"]).output().await?;
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

fn init(env: &Env) -> Result<Process> {
    node(env, 1)
}

/// The process that a node is.
fn node(env: &Env, number: u8) -> Result<Process> {
    let record = Record::read(env)?.context("no record of the cluster")?;
    let node = record.nodes.iter().find(|node| node.number == number);
    Ok(node.with_context(|| format!("the cluster has no node {number}"))?.init)
}

/// What programs that a node is made of call their directories, mounts and cgroups, wherever they make some.
const PROGRAMS: [&str; 8] = ["cni", "containerd", "containers", "coredns", "etcd", "kube", "pods", "runc"];

/// Tells what a cluster leaves from what else comes and goes on a machine: somebody logs in, a timer runs, a package is installed.
#[derive(Debug)]
struct Traces {
    instance: String,
    /// Where everything below is a cluster's.
    places: BTreeSet<PathBuf>,
}

impl Traces {
    fn of(env: &Env) -> Self {
        // The first namespace on a machine makes a mount of the place for all of them.
        Self { instance: env.instance.clone(), places: [env.state.clone(), "/run/netns".into()].into() }
    }

    /// Takes over what a running cluster has written down that it made outside its state.
    fn learn(&mut self, env: &Env) -> Result<()> {
        self.places.extend(Record::read(env)?.context("no record of the cluster")?.made);
        Ok(())
    }

    /// Whether a path, or a name alone, is a trace.
    fn is_one(&self, path: &str) -> bool {
        let path = Path::new(path);
        let mut names = path.iter().map(|name| name.to_string_lossy());
        // Other clusters on the machine come and go as they like.
        let last = path.file_name().unwrap_or_default().to_string_lossy();
        if last.starts_with("bowline") && !last.starts_with(&self.instance) {
            return false;
        }
        self.places.iter().any(|place| path.starts_with(place))
            || names.any(|name| name.starts_with(&self.instance) || PROGRAMS.iter().any(|p| name.starts_with(p)))
    }
}

/// What a cluster could leave behind.
#[derive(Debug, Clone, Default)]
struct Machine {
    namespaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
    directories: BTreeSet<String>,
}

impl Machine {
    fn now(env: &Env) -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let hierarchies = names("/sys/fs/cgroup");
        let cgroups = hierarchies.iter().flat_map(|h| names(format!("/sys/fs/cgroup/{h}")));
        let state = env.state.to_string_lossy();
        let mut directories: BTreeSet<String> = ["/var/lib", "/var/log", "/run", "/opt", "/etc", "/usr/libexec"]
            .into_iter()
            .flat_map(|dir| names(dir).into_iter().map(move |name| format!("{dir}/{name}")))
            .collect();
        directories.extend(env.state.exists().then(|| state.to_string()));
        Ok(Self {
            namespaces: names("/run/netns"),
            mounts: mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect(),
            cgroups: cgroups.chain(hierarchies.iter().cloned()).collect(),
            processes: names("/proc").into_iter().filter(|pid| belongs(pid, &state)).collect(),
            directories,
        })
    }

    fn compare(&self, after: &Self, traces: &Traces) -> Result<()> {
        let kinds = [
            ("network namespaces", &self.namespaces, &after.namespaces),
            ("mounts", &self.mounts, &after.mounts),
            ("cgroups", &self.cgroups, &after.cgroups),
            ("directories", &self.directories, &after.directories),
        ];
        for (kind, before, after) in kinds {
            let more: Vec<_> = after.difference(before).filter(|path| traces.is_one(path)).cloned().collect();
            ensure!(more.is_empty(), "{kind} left behind: {}", more.join(", "));
        }
        // All of them name the state's directory.
        let more: Vec<_> = after.processes.difference(&self.processes).cloned().collect();
        ensure!(more.is_empty(), "processes left behind: {}", more.join(", "));
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

#[cfg(test)]
mod compare {
    use super::*;

    fn traces() -> Traces {
        let places = ["/var/tmp/second", "/run/netns", "/srv/made"].map(PathBuf::from);
        Traces { instance: "bowline-abc123".into(), places: places.into() }
    }

    #[test]
    fn traces_are_told_from_what_else_happens() {
        let traces = traces();
        for trace in [
            "bowline-abc123-node2",
            "/run/netns/bowline-abc123-wire",
            "/run/netns",
            "/var/tmp/second",
            "/var/tmp/second/node1/run",
            "/srv/made",
            "/var/lib/kubelet",
            "/run/containerd",
            "/var/log/pods",
            "/opt/cni",
            "kubepods.slice",
        ] {
            assert!(traces.is_one(trace), "{trace}");
        }
        for other in [
            "/run/user/1000",
            "/var/log/wtmp",
            "/var/lib/systemd",
            "session-7.scope",
            "apt-daily.service",
            "/etc/.pwd.lock",
            "/var/tmp/secondary",
            "/srv/other",
            // Another cluster.
            "bowline-node1",
            "/run/netns/bowline-node1",
            "bowline-fffffe-node1",
        ] {
            assert!(!traces.is_one(other), "{other}");
        }
    }

    #[test]
    fn what_was_there_before_and_what_others_make_is_not_left_behind() {
        let set = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        let before = Machine { directories: set(&["/etc/kubernetes"]), ..Machine::default() };
        let after = Machine { directories: set(&["/etc/kubernetes", "/run/user"]), ..Machine::default() };
        before.compare(&after, &traces()).unwrap();
        for left in [
            Machine { directories: set(&["/etc/kubernetes", "/var/lib/cni"]), ..after.clone() },
            Machine { mounts: set(&["/var/tmp/second/node1/run"]), ..after.clone() },
            Machine { cgroups: set(&["bowline-abc123-node1"]), ..after.clone() },
            Machine { namespaces: set(&["bowline-abc123-node1"]), ..after.clone() },
            Machine { processes: set(&["4711"]), ..after.clone() },
        ] {
            assert!(before.compare(&left, &traces()).is_err(), "{left:?}");
        }
    }
}
