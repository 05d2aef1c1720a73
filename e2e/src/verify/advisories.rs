//! Whether the database of security advisories can be had: it is a Git repository, which not every build machine reaches.

use std::path::Path;
use std::time::Duration;

use crate::shell::Cmd;

/// Where cargo-deny fetches it from.
const DATABASE: &str = "https://github.com/RustSec/advisory-db";
/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why advisories cannot be checked here; `None`: they can.
pub(super) async fn obstacle(cargo_home: Option<&Path>) -> Option<String> {
    if cargo_home.is_none() {
        return Some("neither CARGO_HOME nor HOME is set".into());
    }
    let ask = Cmd::new("git").args(["ls-remote", "--exit-code", DATABASE, "HEAD"]).env("GIT_TERMINAL_PROMPT", "0");
    match tokio::time::timeout(PATIENCE, ask.output()).await {
        Ok(Ok(_)) => None,
        Ok(Err(_)) | Err(_) => Some(format!("{DATABASE} cannot be reached from here")),
    }
}
