//! Brings one node to life: certificate, files, cgroups, network, then its init in namespaces of its own.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::pki::Pki;
use super::state::{NodeRecord, Process, Record};
use super::{cgroups, network, node_files};
use crate::host::env::Env;
use crate::programs::kubernetes::Programs;

/// Arguments of a shell that becomes the program named after them, without the files that this process was itself given by its parent: a node
/// outlives both, and would hold for ever what they lock (`flock FILE cargo e2e up`). Shells give numbers of one digit.
const ALONE: [&str; 3] = ["-c", "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; exec \"$@\"", "sh"];

/// Adds node `number` to the cluster and writes it down.
///
/// # Errors
/// When any step fails; what was made so far is found and removed by `down`.
pub async fn start(env: &Env, programs: &Programs, pki: &Pki, record: &mut Record, number: u8) -> Result<()> {
    let others: Vec<u8> = record.nodes.iter().map(|node| node.number).collect();
    pki.node(number).await?;
    node_files::write(env, number)?;
    cgroups::create(env, number)?;
    network::create_node(env, number, &others).await?;
    let (keeper, init) = spawn(env, programs, number).await?;
    record.nodes.push(NodeRecord { number, keeper, init });
    record.write(env)
}

/// Starts `node-init` as PID 1 of new PID and mount namespaces, inside the node's network namespace.
async fn spawn(env: &Env, programs: &Programs, number: u8) -> Result<(Process, Process)> {
    let log = node_files::dir(&env.state, number).join("log/init.log");
    let log = File::options().create(true).append(true).open(log)?;
    let mut path: Vec<_> = programs.dirs().to_vec();
    path.extend(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Into::into));
    let child = std::process::Command::new("sh")
        .args(ALONE)
        .args(["setsid", "nsenter"])
        .arg(format!("--net={}", network::node_ns_path(env, number).display()))
        .args(["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(&env.program)
        .args(["node-init", "--number", &number.to_string(), "--state"])
        .arg(&env.state)
        .current_dir("/")
        .env_clear()
        .env("PATH", std::env::join_paths(path)?)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start sh")?;
    let keeper = i32::try_from(child.id())?;
    // sh, setsid, nsenter and unshare replace each other; then unshare forks the init.
    for _ in 0..200 {
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
        let init = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).and_then(Process::now);
        if let (Some(init), Some(keeper)) = (init, Process::now(keeper)) {
            return Ok((keeper, init));
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let said = std::fs::read_to_string(node_files::dir(&env.state, number).join("log/init.log")).unwrap_or_default();
    bail!("node {number} did not start: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_inherits_no_file_of_who_started_it() {
        let file = std::env::temp_dir().join(format!("bowline-inherited-{}", std::process::id()));
        let given = format!("exec 3>{0} 9>{0}; exec \"$@\"", file.display());
        let list = |wrapper: &[&str]| {
            let ls = ["ls", "-l", "/proc/self/fd"];
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &given, "sh"]).args(wrapper).args(ls);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        let name = file.to_string_lossy();
        assert_eq!(list(&[]).matches(&*name).count(), 2, "the test gives nothing to inherit");
        let wrapper: Vec<_> = ["sh"].into_iter().chain(ALONE).collect();
        let left = list(&wrapper);
        assert!(left.contains(" 0 -> ") && !left.contains(&*name), "{left}");
        std::fs::remove_file(file).unwrap();
    }
}
