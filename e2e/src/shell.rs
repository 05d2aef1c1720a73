//! Runs other programs: output captured, failures told with the command line and what the program said.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// How much of a failed program's output an error quotes.
const QUOTED: usize = 4000;

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
        // A child process with its pipes is a large future; everybody awaits this one.
        Box::pin(self.finish()).await
    }

    async fn finish(mut self) -> Result<String> {
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
        let out = out.with_context(|| format!("lost track of `{}`", self.line))?;
        if !out.status.success() {
            let said = [&out.stdout[..], &out.stderr[..]].concat();
            let said = String::from_utf8_lossy(&said[said.len().saturating_sub(QUOTED)..]).trim().to_owned();
            bail!("`{}` failed ({}):\n{said}", self.line, out.status);
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
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
