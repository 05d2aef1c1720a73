//! One cgroup root per node, in every hierarchy of cgroup v1 or in the single one of v2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::host::env::Env;

const MOUNT: &str = "/sys/fs/cgroup";

/// The name of a node's root, below each hierarchy.
#[must_use]
pub fn name(env: &Env, number: u8) -> String {
    format!("{}-node{number}", env.instance)
}

/// Makes a node's roots.
///
/// # Errors
/// When a directory cannot be made or the controllers cannot be handed down.
pub fn create(env: &Env, number: u8) -> Result<()> {
    let root = Path::new(MOUNT);
    if root.join("cgroup.controllers").is_file() {
        hand_down(root)?;
    }
    for hierarchy in hierarchies() {
        let dir = hierarchy.join(name(env, number));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
        // In v1 a new cpuset is empty, and no process can join it before it is filled in.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let (true, Ok(value)) = (hierarchy.ends_with("cpuset"), fs::read(hierarchy.join(file))) {
                fs::write(dir.join(file), value)
                    .with_context(|| format!("cannot fill {}", dir.join(file).display()))?;
            }
        }
    }
    Ok(())
}

/// v2: a child has only the controllers that its parent hands down.
fn hand_down(root: &Path) -> Result<()> {
    for controller in ["cpuset", "cpu", "io", "memory", "pids"] {
        let written = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
        written.with_context(|| format!("cgroup controller {controller} cannot be handed down from {MOUNT}"))?;
    }
    Ok(())
}

/// The roots of all hierarchies; one in v2.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(MOUNT);
    if root.join("cgroup.controllers").is_file() {
        return vec![root.into()];
    }
    let mut dirs: Vec<_> = children(root).filter(|dir| dir.join("cgroup.procs").is_file()).collect();
    // `cpu,cpuacct` is often also there as two symbolic links.
    dirs.retain(|dir| !dir.is_symlink());
    dirs
}

/// The directories of this cluster that exist.
#[must_use]
pub fn existing(env: &Env) -> Vec<PathBuf> {
    numbered(env).map(|(_, dir)| dir).collect()
}

/// The numbers of nodes that have one.
#[must_use]
pub fn nodes(env: &Env) -> Vec<u8> {
    numbered(env).map(|(number, _)| number).collect()
}

fn numbered(env: &Env) -> impl Iterator<Item = (u8, PathBuf)> + use<> {
    let prefix = format!("{}-node", env.instance);
    let number = move |dir: &Path| dir.file_name()?.to_str()?.strip_prefix(&prefix)?.parse().ok();
    hierarchies().into_iter().flat_map(|h| children(&h)).filter_map(move |dir| Some((number(&dir)?, dir)))
}

/// Removes them all, when the last process is gone.
///
/// # Errors
/// When one is still in use after ten seconds.
pub async fn remove_all(env: &Env) -> Result<()> {
    remove(|| existing(env)).await
}

/// Removes those of one node, when its last process is gone.
///
/// # Errors
/// As [`remove_all`].
pub async fn remove_node(env: &Env, number: u8) -> Result<()> {
    remove(|| numbered(env).filter(|(n, _)| *n == number).map(|(_, dir)| dir).collect()).await
}

async fn remove(existing: impl Fn() -> Vec<PathBuf>) -> Result<()> {
    for attempt in 0.. {
        let failed = existing().iter().find_map(|dir| remove_tree(dir).err().map(|e| (dir.clone(), e)));
        match failed {
            None => return Ok(()),
            Some((dir, e)) if attempt == 100 => bail!("cgroup {} cannot be removed: {e}", dir.display()),
            // Killed processes leave their cgroup a moment later.
            Some(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    Ok(())
}

/// Removes directories from the leaves up; the files in them are the kernel's.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for child in children(dir) {
        remove_tree(&child)?;
    }
    fs::remove_dir(dir)
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path())
}
