//! Keeps two runs on one machine out of each other's way.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::progress::say;

/// Held while it lives; the kernel releases it when the process ends, however it ends.
pub struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    /// Takes the lock at `path`; waits, and says so, while another run has it.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub async fn take(path: &Path, what: &str) -> Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot open the lock {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                say(format_args!("waiting for another run that is {what}"));
                let file =
                    tokio::task::spawn_blocking(move || flock(&file, FlockOperation::LockExclusive).map(|()| file));
                Ok(Self(file.await??))
            }
            other => {
                other.with_context(|| format!("cannot lock {}", path.display()))?;
                Ok(Self(file))
            }
        }
    }
}
