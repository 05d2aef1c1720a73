//! Keeps two runs on one machine out of each other's way.
//!
//! A lock is the kernel's, on a file that stays: it ends with the process that holds it, however that ends, so none is ever stale.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::host::env::Env;
use crate::host::prereq;
use crate::host::progress::say;

/// Tells a child process which lock its parent holds for it, and the parent's number: `PID PATH`.
const HANDED_DOWN: &str = "BOWLINE_LOCK_HELD";

/// Held while it lives.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// `None`: a parent process holds it, and waits for this one.
    file: Option<File>,
}

impl Lock {
    /// Takes the lock at `path`; while another run has it, says who that is and waits. `what` tells others what this run does.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub async fn take(path: &Path, what: &str) -> Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let mut file = file.with_context(|| format!("cannot open the lock {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                say(format_args!("waiting for {}, which holds {}", holder(&mut file), path.display()));
                let wait = move || flock(&file, FlockOperation::LockExclusive).map(|()| file);
                file = tokio::task::spawn_blocking(wait).await??;
            }
            other => other.with_context(|| format!("cannot lock {}", path.display()))?,
        }
        // For who waits; a line of a holder that is gone must not be left behind it.
        let line = format!("{} {what}\n", std::process::id());
        let told = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(line.as_bytes()));
        told.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.into(), file: Some(file) })
    }

    /// Takes the lock of the cluster that `env` is about, for as long as this run uses it, unless a parent process holds it for this one.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn cluster(env: &Env) -> Result<Self> {
        let path = env.lock();
        if env.kubeconfig.is_none() {
            // Else the lock's file would be the first to say no, and not say why.
            prereq::root()?;
        }
        let handed = std::env::var(HANDED_DOWN).unwrap_or_default();
        if is_handed_down(&handed, &path) {
            return Ok(Self { path, file: None });
        }
        let command: Vec<_> = std::env::args().skip(1).collect();
        Self::take(&path, &format!("cargo e2e {}", command.join(" "))).await
    }

    /// The variable, name and value, by which a child process that this one waits for knows that the lock is held for it.
    #[must_use]
    pub fn hand_down(&self) -> (&'static str, String) {
        (HANDED_DOWN, format!("{} {}", std::process::id(), self.path.display()))
    }

    /// Whether this process itself holds it.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.file.is_some()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Nobody holds it now; who is killed leaves its line, and the next holder replaces it.
            let _ = file.set_len(0);
        }
    }
}

/// Whether a parent says truly that it holds the lock at `path`: the lock names it, too.
fn is_handed_down(handed: &str, path: &Path) -> bool {
    let Some((pid, held)) = handed.split_once(' ') else { return false };
    let written = std::fs::read_to_string(path).unwrap_or_default();
    Path::new(held) == path && written.split(' ').next() == Some(pid) && Path::new("/proc").join(pid).exists()
}

/// Who has locked a file, by what it wrote into it.
fn holder(file: &mut File) -> String {
    let mut said = String::new();
    let read = file.rewind().and_then(|()| file.take(1000).read_to_string(&mut said));
    match (read, said.trim().split_once(' ')) {
        (Ok(_), Some((pid, what))) => format!("process {pid} (`{what}`)"),
        _ => "another run".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("bowline-lock-{name}-{}", std::process::id()))
    }

    #[tokio::test]
    async fn a_second_run_waits_until_the_first_has_ended() {
        let path = path("second");
        let first = Lock::take(&path, "cargo e2e test").await.unwrap();
        let mut second = Box::pin(Lock::take(&path, "cargo e2e demo"));
        // However long it is waited for, it does not come.
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut second).await.is_err());
        let mut file = File::open(&path).unwrap();
        assert_eq!(holder(&mut file), format!("process {} (`cargo e2e test`)", std::process::id()));
        drop(first);
        let second = tokio::time::timeout(Duration::from_secs(60), second).await.unwrap().unwrap();
        assert_eq!(holder(&mut file), format!("process {} (`cargo e2e demo`)", std::process::id()));
        drop(second);
        // What the last holder wrote keeps nobody out.
        drop(Lock::take(&path, "cargo e2e up").await.unwrap());
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn a_child_of_the_holder_passes_and_nobody_else() {
        let path = path("child");
        let lock = Lock::take(&path, "cargo e2e verify").await.unwrap();
        let (_, handed) = lock.hand_down();
        assert!(is_handed_down(&handed, &path));
        assert!(!is_handed_down(&handed, &path.with_extension("other")));
        assert!(!is_handed_down("1 /run/lock/bowline.lock", &path));
        assert!(!is_handed_down("", &path));
        // Somebody else has it by now.
        std::fs::write(&path, "1 cargo e2e test\n").unwrap();
        assert!(!is_handed_down(&handed, &path));
        std::fs::remove_file(path).unwrap();
    }
}
