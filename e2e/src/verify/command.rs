//! Runs one stage's command: output to a log, and to the person as much as helps.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::host::progress::{say, step_with};

/// How much of a quiet command's output is shown when it failed.
const LINES_SHOWN: usize = 120;
/// How much of the last line stands in the progress.
const REMARK_BYTES: usize = 60;

/// What the person sees while a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// Only that it runs; when it fails, the end of what it said.
    OnFailure,
    /// Every line: the command tells its progress itself.
    Lines,
}

/// A command whose output is kept.
pub(super) struct Logged {
    pub(super) name: &'static str,
    pub(super) command: Command,
    pub(super) log: PathBuf,
    pub(super) show: Show,
}

impl Logged {
    /// Runs to the end; returns whether it succeeded, and every line of both its outputs in order.
    pub(super) async fn run(self) -> Result<(bool, Vec<String>)> {
        let Self { name, command, log, show } = self;
        let last = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&last);
        let work = async move {
            tokio::task::spawn_blocking(move || {
                follow(command, &log, |line| match show {
                    Show::Lines => say(line),
                    Show::OnFailure => {
                        line.trim().clone_into(&mut shown.lock().unwrap_or_else(PoisonError::into_inner))
                    }
                })
            })
            .await?
        };
        if show == Show::Lines {
            say(format_args!("== {name}"));
            return work.await;
        }
        let remark = || {
            let line = last.lock().unwrap_or_else(PoisonError::into_inner);
            let end = line.floor_char_boundary(REMARK_BYTES);
            (end > 0).then(|| line[..end].to_owned())
        };
        let (good, lines) = step_with(name, remark, work).await?;
        if !good {
            say(format_args!("{name} FAILED:"));
            lines.iter().skip(lines.len().saturating_sub(LINES_SHOWN)).for_each(say);
        }
        Ok((good, lines))
    }
}

/// Both outputs go into one pipe, so that they stay in order.
fn follow(mut command: Command, log: &PathBuf, mut each: impl FnMut(&str)) -> Result<(bool, Vec<String>)> {
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let (reader, writer) = std::io::pipe().context("no pipe")?;
    command.stdin(std::process::Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    // It holds the writing end: reading would not end while it lives.
    drop(command);
    let mut lines = vec![];
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(file, "{line}").with_context(|| format!("cannot write {}", log.display()))?;
        each(&line);
        lines.push(line);
    }
    Ok((child.wait()?.success(), lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &str) -> Logged {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let log = std::env::temp_dir().join(format!("{log}-{}", std::process::id()));
        Logged { name: "stage", command, log, show: Show::OnFailure }
    }

    #[tokio::test]
    async fn both_outputs_are_kept_in_order_with_the_verdict() {
        let stage = shell("echo one; echo two >&2; echo three; exit 3", "verify-order");
        let log = stage.log.clone();
        let (good, lines) = stage.run().await.unwrap();
        assert!(!good);
        assert_eq!(lines, ["one", "two", "three"]);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "one\ntwo\nthree\n");
        std::fs::remove_file(log).unwrap();
    }

    #[tokio::test]
    async fn success_is_success() {
        let stage = shell("exit 0", "verify-success");
        let log = stage.log.clone();
        assert_eq!(stage.run().await.unwrap(), (true, vec![]));
        std::fs::remove_file(log).unwrap();
    }
}
