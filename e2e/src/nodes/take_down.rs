//! Takes a cluster down, whole or half-dead, and leaves nothing of it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::state::{self, Process, Record};
use super::{cgroups, network, node_files};
use crate::host::env::Env;
use crate::host::shell::run;

/// Whether there is anything to take down.
#[must_use]
pub fn anything(env: &Env) -> bool {
    env.state.exists() || !network::namespaces(env).is_empty() || !cgroups::existing(env).is_empty()
}

/// Removes processes, network namespaces, cgroups, mount points and files.
///
/// # Errors
/// Names what would not go; and when the state's directory is not a cluster's, in which case nothing is touched.
pub async fn take_down(env: &Env) -> Result<()> {
    state::ensure_ours(env)?;
    let record = Record::read(env)?.unwrap_or_default();
    kill(&record, network::namespaces(env)).await?;
    network::remove_all(env).await?;
    cgroups::remove_all(env).await?;
    for dir in &record.made {
        // Still in use by somebody else if it is not empty.
        let _ = std::fs::remove_dir(dir);
    }
    if record.netns_mount {
        network::remove_netns_mount().await;
    }
    remove_state(env).await
}

/// Removes what is there of one node of a cluster that goes on, such as one whose start was interrupted.
///
/// # Errors
/// Names what would not go.
pub async fn take_down_node(env: &Env, number: u8) -> Result<()> {
    let mut record = Record::read(env)?.unwrap_or_default();
    let (gone, kept) = record.nodes.into_iter().partition(|node| node.number == number);
    record.nodes = gone;
    let namespace = network::node_ns(env, number);
    let exists = network::namespaces(env).contains(&namespace);
    kill(&record, exists.then_some(namespace)).await?;
    network::remove_node(env, number).await?;
    cgroups::remove_node(env, number).await?;
    remove(&node_files::dir(&env.state, number)).await?;
    record.nodes = kept;
    record.write(env)
}

/// Kills each node's init, and with it all that runs in the node, and whatever else runs in the namespaces; waits until they are gone.
async fn kill(record: &Record, namespaces: impl IntoIterator<Item = String>) -> Result<()> {
    let mut processes: Vec<Process> = record.nodes.iter().flat_map(|node| [node.init, node.keeper]).collect();
    // Nodes that were started but not written down, and whatever else was run inside.
    for name in namespaces {
        let pids = run("ip", &["netns", "pids", &name]).await.unwrap_or_default();
        processes.extend(pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Process::now));
    }
    processes.iter().for_each(|process| process.kill());
    for _ in 0..300 {
        if !processes.iter().any(|process| process.alive()) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let alive: Vec<_> = processes.iter().filter(|p| p.alive()).map(|p| p.pid.to_string()).collect();
    bail!("processes of the cluster that do not end: {}", alive.join(" "))
}

/// Removes the state's directory, the record of what is there last: when this is interrupted, it can be taken up again.
async fn remove_state(env: &Env) -> Result<()> {
    let record = state::file(env);
    for entry in std::fs::read_dir(&env.state).into_iter().flatten().flatten() {
        if entry.path() != record {
            remove(&entry.path()).await?;
        }
    }
    remove(&env.state).await
}

/// Removes a file or directory; a node's last mounts may take a moment to go with their namespace.
async fn remove(path: &Path) -> Result<()> {
    for attempt in 0.. {
        let removed = if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        };
        match removed {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if attempt == 100 => {
                return Err(e).with_context(|| format!("cannot remove {}", path.display()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    Ok(())
}
