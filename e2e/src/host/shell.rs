//! Runs other programs: output captured, failures told with the command line and what the program said.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc::UnboundedSender;

/// How many characters of a failed program's output an error quotes.
const QUOTED: usize = 4000;
/// How many lines of a program that is followed are kept for that.
const REMEMBERED: usize = 400;
/// How much of one line, which may be a command of a compiler with all its arguments.
const QUOTED_OF_A_LINE: usize = 300;

/// One command to run.
pub struct Cmd {
    inner: Command,
    line: String,
    input: Option<Vec<u8>>,
}

impl Cmd {
    /// A command for `program`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let line = program.as_ref().to_string_lossy().into_owned();
        let mut inner = Command::new(program);
        inner.kill_on_drop(true);
        Self { inner, line, input: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        for arg in args {
            self.line.push(' ');
            self.line.push_str(&arg.as_ref().to_string_lossy());
            self.inner.arg(arg);
        }
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(key, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Feeds standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Runs to the end and returns standard output.
    ///
    /// # Errors
    /// When the program cannot be started or exits with anything but 0; the message quotes the end of its output.
    pub async fn output(self) -> Result<String> {
        let line = self.line.clone();
        // A child process with its pipes is a large future; everybody awaits this one.
        let out = Box::pin(self.finish()).await?;
        if !out.status.success() {
            let said = [&out.stdout[..], &out.stderr[..]].concat();
            bail!("`{line}` failed ({}):\n{}", out.status, quote(&String::from_utf8_lossy(&said)));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Runs to the end and returns standard output, whatever the exit code.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub async fn said(self) -> Result<String> {
        let out = Box::pin(self.finish()).await?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    async fn finish(mut self) -> Result<Output> {
        self.inner.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        self.inner.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.inner.spawn().with_context(|| format!("cannot start `{}`", self.line))?;
        let stdin = child.stdin.take();
        let feed = async {
            if let (Some(mut stdin), Some(bytes)) = (stdin, self.input) {
                // A program that stops reading early says why by its exit code.
                let _ = stdin.write_all(&bytes).await;
            }
        };
        let ((), out) = tokio::join!(feed, child.wait_with_output());
        out.with_context(|| format!("lost track of `{}`", self.line))
    }

    /// Runs to the end and hands on every line of both its outputs as it comes.
    ///
    /// # Errors
    /// As [`Self::output`].
    pub async fn follow(mut self, mut each: impl FnMut(&str)) -> Result<()> {
        self.inner.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.inner.spawn().with_context(|| format!("cannot start `{}`", self.line))?;
        let (lines, mut inbox) = tokio::sync::mpsc::unbounded_channel();
        pass_on(child.stdout.take(), lines.clone());
        pass_on(child.stderr.take(), lines);
        let mut said = VecDeque::new();
        while let Some(line) = inbox.recv().await {
            each(&line);
            said.push_back(line);
            if said.len() > REMEMBERED {
                said.pop_front();
            }
        }
        let status = child.wait().await.with_context(|| format!("lost track of `{}`", self.line))?;
        if !status.success() {
            // What a compiler tells machines is no use to people.
            let lines: Vec<_> = said.into_iter().filter(|line| !line.starts_with('{')).collect();
            bail!("`{}` failed ({status}):\n{}", self.line, quote(&lines.join("\n")));
        }
        Ok(())
    }

    /// Runs in the foreground, with this terminal, and returns the exit code.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub async fn interactive(mut self) -> Result<i32> {
        let status = self.inner.status().await.with_context(|| format!("cannot start `{}`", self.line))?;
        Ok(status.code().unwrap_or(128))
    }
}

/// Hands on the lines of one output until it ends.
fn pass_on(output: Option<impl AsyncRead + Unpin + Send + 'static>, to: UnboundedSender<String>) {
    let Some(output) = output else { return };
    tokio::spawn(async move {
        let mut lines = BufReader::new(output).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
}

/// The last lines of what a program said, the long ones cut, so that the reason is among them.
fn quote(said: &str) -> String {
    let mut left = QUOTED;
    let mut lines: Vec<String> = vec![];
    for line in said.trim().lines().rev() {
        let end = line.floor_char_boundary(QUOTED_OF_A_LINE);
        let cut = if end < line.len() { format!("{} …", &line[..end]) } else { line.to_owned() };
        let Some(rest) = left.checked_sub(cut.len() + 1) else { break };
        left = rest;
        lines.push(cut);
    }
    lines.reverse();
    lines.join("\n")
}

/// Runs `program` with `args` and returns its standard output.
///
/// # Errors
/// As [`Cmd::output`].
pub async fn run(program: &str, args: &[&str]) -> Result<String> {
    Cmd::new(program).args(args).output().await
}

/// Finds a program in `PATH` or in the places of system programs that a user's `PATH` may lack.
#[must_use]
pub fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fixed = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/go/bin"].map(Into::into);
    std::env::split_paths(&path).chain(fixed).map(|dir| dir.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_says_why_however_long_its_last_line_is() {
        let script = "echo out; echo why it failed >&2; printf '%09000d\\n' 7 >&2; exit 3";
        let error = run("sh", &["-c", script]).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("\nout\nwhy it failed\n0000"), "{error}");
        assert!(error.len() < 600, "{error}");
        let error = run("sh", &["-c", "seq 100000; exit 1"]).await.unwrap_err().to_string();
        assert!(error.ends_with("\n99999\n100000") && error.len() < QUOTED + 100, "{error}");
    }
}
