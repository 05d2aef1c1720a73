//! What is written down about a running cluster, and whether its processes still live.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::host::env::Env;

/// The ending of a file that is being written.
const DRAFT: &str = "new";

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub started: u64,
}

impl Process {
    /// The process that has this number now.
    #[must_use]
    pub fn now(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        // A zombie holds no resources any more.
        (state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn alive(self) -> bool {
        Self::now(self.pid) == Some(self)
    }

    /// Kills it, unless its number belongs to another process by now.
    pub fn kill(self) {
        if let (true, Some(pid)) = (self.alive(), Pid::from_raw(self.pid)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// State letter and start time; the name in parentheses may contain anything.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// 1 for the first, which also runs the control plane.
    pub number: u8,
    /// The program that made the node's namespaces and waits for its init.
    pub keeper: Process,
    /// PID 1 of the node, by its number outside; everything in the node dies with it.
    pub init: Process,
}

/// The cluster, as written to `cluster.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Directories of the programs that it runs.
    pub programs: Vec<std::path::PathBuf>,
    /// Its nodes, in order.
    pub nodes: Vec<NodeRecord>,
    /// Empty directories that had to be made as mount points outside the state.
    pub made: Vec<std::path::PathBuf>,
    /// Whether the first network namespace made `/run/netns` a mount of its own.
    pub netns_mount: bool,
}

impl Record {
    /// Reads what is written down; `None` when there is no cluster.
    ///
    /// # Errors
    /// When the file cannot be read. One that cannot be understood counts as an empty record: there is something to clean up.
    pub fn read(env: &Env) -> Result<Option<Self>> {
        let path = file(env);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_default())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The number of a node that does not run any more.
    #[must_use]
    pub fn dead(&self) -> Option<u8> {
        self.nodes.iter().find(|node| !node.init.alive()).map(|node| node.number)
    }

    /// Writes it down, atomically.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, env: &Env) -> Result<()> {
        write_atomically(&file(env), &serde_json::to_vec_pretty(self)?)
    }
}

/// Makes sure that the state's directory is a cluster's, and not something of the user's that would be removed with one.
///
/// # Errors
/// When there is something else; names it.
pub fn ensure_ours(env: &Env) -> Result<()> {
    let state = &env.state;
    let entries = match std::fs::read_dir(state) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("cannot look into {}", state.display())),
    };
    // The record is the first thing that is made there and the last that goes: without one there is at most its draft.
    let draft = file(env).with_extension(DRAFT);
    let mut others = entries.flatten().map(|entry| entry.path()).filter(|path| *path != draft);
    let Some(other) = others.next() else { return Ok(()) };
    let record = std::fs::read(file(env)).unwrap_or_default();
    if serde_json::from_slice::<serde_json::Value>(&record).is_ok_and(|record| record["nodes"].is_array()) {
        return Ok(());
    }
    bail!(
        "{} is no cluster's state: it holds {}, and no cluster.json of ours. Whatever is there would be lost: \
         set BOWLINE_STATE to an empty or new directory, or remove this one by hand",
        state.display(),
        other.file_name().unwrap_or_default().display()
    )
}

/// The file that says what runs.
pub(super) fn file(env: &Env) -> std::path::PathBuf {
    env.state.join("cluster.json")
}

/// Writes beside the file and renames: readers see the old or the new content.
///
/// # Errors
/// When it cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let fresh = path.with_extension(DRAFT);
    let written = std::fs::write(&fresh, bytes).and_then(|()| std::fs::rename(&fresh, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_of_a_process_with_an_odd_name() {
        let stat = "42 (a) R (b) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 1";
        assert_eq!(parse_stat(stat), Some(('S', 777)));
    }

    #[test]
    fn a_recycled_number_is_not_alive() {
        let own = Process::now(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.alive());
        assert!(!Process { started: own.started + 1, ..own }.alive());
    }

    #[test]
    fn a_directory_of_the_users_is_no_state() {
        let dir = std::env::temp_dir().join(format!("bowline-state-{}", std::process::id()));
        let env = Env::from_process().unwrap().with_state(dir.clone());
        ensure_ours(&env).expect("there is nothing yet");
        std::fs::create_dir(&dir).unwrap();
        ensure_ours(&env).expect("it is empty");
        std::fs::write(dir.join("cluster.new"), "{").unwrap();
        ensure_ours(&env).expect("a crash while the first record was written");

        std::fs::write(dir.join("letters.txt"), "dear").unwrap();
        let error = ensure_ours(&env).unwrap_err().to_string();
        assert!(error.contains(&*dir.to_string_lossy()) && error.contains("letters.txt"), "{error}");
        std::fs::write(dir.join("cluster.json"), r#"{"name": "a cluster of stars"}"#).unwrap();
        ensure_ours(&env).unwrap_err();

        Record::default().write(&env).unwrap();
        ensure_ours(&env).expect("it is recorded");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
