//! Counts tests by height from what `cargo test` and `cargo e2e test` print.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How far from the code a test stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Height {
    /// State machines, compilers, patches, schemas, drift checks: no other process, no socket.
    Pure,
    /// Whole parts over loopback sockets, and reconcilers against scripted answers of an API server.
    SocketsAndApi,
    /// Pods on a real Kubernetes.
    Cluster,
}

impl Height {
    pub(super) const ALL: [Self; 3] = [Self::Pure, Self::SocketsAndApi, Self::Cluster];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::SocketsAndApi => "sockets and API",
            Self::Cluster => "cluster",
        }
    }
}

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
}

/// Tests by height.
pub(super) struct Tallies {
    root: PathBuf,
    by_height: BTreeMap<Height, Tally>,
}

impl Tallies {
    /// `root`: the checkout, where the tests' source files are looked up.
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.into(), by_height: BTreeMap::new() }
    }

    pub(super) fn of(&self, height: Height) -> Tally {
        self.by_height.get(&height).copied().unwrap_or_default()
    }

    pub(super) fn total(&self) -> Tally {
        self.by_height.values().fold(Tally::default(), |sum, t| Tally {
            passed: sum.passed + t.passed,
            failed: sum.failed + t.failed,
            ignored: sum.ignored + t.ignored,
        })
    }

    /// Adds what one command printed.
    pub(super) fn read(&mut self, lines: &[String]) {
        let mut height = Height::Pure;
        for line in lines {
            let text = line.trim();
            if let Some(source) = text.strip_prefix("Running ") {
                height = self.height(source.split(" (").next().unwrap_or(source));
            } else if text.starts_with("Doc-tests ") {
                height = Height::Pure;
            } else if let Some(tally) = text.strip_prefix("test result: ").and_then(libtest) {
                self.add(height, tally);
            } else if let Some(tally) = total(text) {
                self.add(Height::Cluster, tally);
            }
        }
    }

    /// `unittests src/lib.rs` or `tests/NAME.rs`: cargo names the file, not the package.
    fn height(&self, source: &str) -> Height {
        let pure = |name: &str| name.ends_with("_drift.rs") || name.ends_with("manifests.rs");
        let talks = |package: &str| self.root.join(package).join(source).is_file();
        if source.starts_with("tests/")
            && !pure(source)
            && ["proxy", "operator", "e2e", "e2e/test-app"].into_iter().any(talks)
        {
            Height::SocketsAndApi
        } else {
            Height::Pure
        }
    }

    fn add(&mut self, height: Height, more: Tally) {
        let sum = self.by_height.entry(height).or_default();
        sum.passed += more.passed;
        sum.failed += more.failed;
        sum.ignored += more.ignored;
    }
}

/// `ok. 7 passed; 0 failed; 1 ignored; 0 measured; …`
fn libtest(text: &str) -> Option<Tally> {
    let (_, counts) = text.split_once(". ")?;
    let mut tally = Tally::default();
    for part in counts.split("; ") {
        match part.split_once(' ') {
            Some((n, "passed")) => tally.passed = n.parse().ok()?,
            Some((n, "failed")) => tally.failed = n.parse().ok()?,
            Some((n, "ignored")) => tally.ignored = n.parse().ok()?,
            _ => {}
        }
    }
    Some(tally)
}

/// The last line of `cargo e2e test`: `12 passed, 0 failed`, possibly with more behind it.
fn total(text: &str) -> Option<Tally> {
    let (passed, rest) = text.split_once(" passed, ")?;
    let (failed, _) = rest.split_once(" failed")?;
    Some(Tally { passed: passed.parse().ok()?, failed: failed.parse().ok()?, ignored: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Tallies {
        let mut tallies = Tallies::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        tallies.read(&text.lines().map(str::to_owned).collect::<Vec<_>>());
        tallies
    }

    #[test]
    fn rust_tests_are_counted_by_height() {
        let tallies = read(
            "     Running unittests src/lib.rs (target/debug/deps/bowline_proxy-0a)\n\
             test result: ok. 40 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s\n\
             \u{20}    Running tests/rbac_drift.rs (target/debug/deps/rbac_drift-0b)\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n\
             \u{20}  Doc-tests bowline_proxy\n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n",
        );
        assert_eq!(tallies.of(Height::Pure), Tally { passed: 44, failed: 2, ignored: 1 });
        assert_eq!(tallies.of(Height::Cluster), Tally::default());
    }

    #[test]
    fn cluster_tests_are_counted_and_prose_is_not() {
        let tallies = read("install: passed, 3 s\nthe check passed, nothing failed\n12 passed, 1 failed (4 min)\n");
        assert_eq!(tallies.total(), Tally { passed: 12, failed: 1, ignored: 0 });
        assert_eq!(tallies.of(Height::Cluster), tallies.total());
    }
}
