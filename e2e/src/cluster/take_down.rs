//! Takes a cluster down, whole or half-dead, and leaves nothing of it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::state::{Process, Record};
use super::{cgroups, network};
use crate::env::Env;
use crate::shell::run;

/// Whether there is anything to take down.
#[must_use]
pub fn anything(env: &Env) -> bool {
    env.state.exists() || !network::namespaces(env).is_empty() || !cgroups::existing(env).is_empty()
}

/// Removes processes, network namespaces, cgroups, mount points and files.
///
/// # Errors
/// Names what would not go.
pub async fn take_down(env: &Env) -> Result<()> {
    let record = Record::read(env)?.unwrap_or_default();
    kill_all(env, &record).await?;
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

/// Kills each node's init, and with it all that runs in the node; waits until they are gone.
async fn kill_all(env: &Env, record: &Record) -> Result<()> {
    let mut processes: Vec<Process> = record.nodes.iter().flat_map(|node| [node.init, node.keeper]).collect();
    // Nodes that were started but not written down, and whatever else was run inside.
    for name in network::namespaces(env) {
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

/// Removes the state directory; its last mounts may take a moment to go with their namespace.
async fn remove_state(env: &Env) -> Result<()> {
    for attempt in 0.. {
        match std::fs::remove_dir_all(&env.state) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if attempt == 100 => {
                return Err(e).with_context(|| format!("cannot remove {}", env.state.display()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    Ok(())
}
