//! Whether the database of security advisories can be had: it is a Git repository, which not every build machine reaches.

use std::path::Path;
use std::time::Duration;

use crate::host::shell::Cmd;

/// Where cargo-deny fetches it from.
const DATABASE: &str = "https://github.com/RustSec/advisory-db";
/// How cargo-deny says that it could not; no advisory is told then.
const UNFETCHED: &str = "failed to fetch advisory database";
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

/// Why they could not be checked, out of what cargo-deny said when it failed; `None`: for another reason.
pub(super) fn unfetched(lines: &[String]) -> Option<String> {
    lines.iter().any(|line| line.contains(UNFETCHED)).then(|| format!("{DATABASE} could not be fetched"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_out_of_reach_is_told_from_an_advisory() {
        let said = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let unreached = "2026-01-02 03:04:05 [ERROR] failed to fetch advisory database https://github.com/RustSec/advisory-db with cli: \
             failed to fetch latest changes: fatal: unable to access";
        assert!(unfetched(&said(unreached)).is_some());
        let found = "error[vulnerability]: a crate fails to fetch what it should\n   ┌─ Cargo.lock:7:1\n\
             advisories FAILED";
        assert_eq!(unfetched(&said(found)), None);
        assert_eq!(unfetched(&[]), None);
    }
}
