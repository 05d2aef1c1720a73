//! Counts tests by height from what `cargo test` and `cargo e2e test` print, and stages that run none by how they ended.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// How a test that cannot run where it is says so, at the beginning of a line: to libtest it has passed.
const SKIPPED: &str = "SKIPPED ";

/// How far from the code a test stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Height {
    /// State machines, compilers, patches, schemas, drift checks: no other process, no socket.
    Pure,
    /// Whole parts over loopback sockets, and reconcilers against scripted answers of an API server.
    SocketsAndApi,
    /// Pods on a real Kubernetes.
    Cluster,
    /// No test: formatting, lints, builds, the demo.
    Stage,
}

impl Height {
    pub(super) const ALL: [Self; 4] = [Self::Pure, Self::SocketsAndApi, Self::Cluster, Self::Stage];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::SocketsAndApi => "sockets and API",
            Self::Cluster => "cluster",
            Self::Stage => "other stages",
        }
    }
}

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5} passed {:>3} failed {:>3} skipped", self.passed, self.failed, self.skipped)
    }
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
            skipped: sum.skipped + t.skipped,
        })
    }

    /// Adds what the command of one stage printed, and whether it succeeded: a stage counts by its tests, and by itself when it has none or
    /// failed for another reason.
    pub(super) fn read(&mut self, lines: &[String], good: bool) {
        let before = self.total();
        self.read_tests(lines);
        let tests = self.total();
        match good {
            false if tests.failed == before.failed => self.add(Height::Stage, Tally { failed: 1, ..Tally::default() }),
            true if tests == before => self.add(Height::Stage, Tally { passed: 1, ..Tally::default() }),
            _ => {}
        }
    }

    /// Adds a stage that was left out.
    pub(super) fn skip(&mut self) {
        self.add(Height::Stage, Tally { skipped: 1, ..Tally::default() });
    }

    fn read_tests(&mut self, lines: &[String]) {
        let mut said = 0;
        let mut height = Height::Pure;
        for line in lines {
            let text = line.trim();
            if let Some(source) = text.strip_prefix("Running ") {
                height = self.height(source.split(" (").next().unwrap_or(source));
            } else if text.starts_with("Doc-tests ") {
                height = Height::Pure;
            } else if text.starts_with(SKIPPED) {
                said += 1;
            } else if let Some(mut tally) = text.strip_prefix("test result: ").and_then(libtest) {
                let skipped = std::mem::take(&mut said).min(tally.passed);
                tally.passed -= skipped;
                tally.skipped += skipped;
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
        if source.starts_with("tests/") && !pure(source) && ["proxy", "operator", "e2e/test-app"].into_iter().any(talks)
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
        sum.skipped += more.skipped;
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
            Some((n, "ignored")) => tally.skipped = n.parse().ok()?,
            _ => {}
        }
    }
    Some(tally)
}

/// The last line of `cargo e2e test`: `12 passed, 0 failed, 1 skipped`, possibly with more behind it.
fn total(text: &str) -> Option<Tally> {
    let (passed, rest) = text.split_once(" passed, ")?;
    let (failed, rest) = rest.split_once(" failed, ")?;
    let (skipped, _) = rest.split_once(" skipped")?;
    Some(Tally { passed: passed.parse().ok()?, failed: failed.parse().ok()?, skipped: skipped.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, good: bool) -> Tallies {
        let mut tallies = Tallies::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        tallies.read(&text.lines().map(str::to_owned).collect::<Vec<_>>(), good);
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
            false,
        );
        assert_eq!(tallies.of(Height::Pure), Tally { passed: 44, failed: 2, skipped: 1 });
        assert_eq!(tallies.of(Height::Cluster), Tally::default());
        assert_eq!(tallies.of(Height::Stage), Tally::default());
    }

    #[test]
    fn a_test_that_could_not_run_has_not_passed() {
        let tallies = read(
            "     Running tests/redirect.rs (target/debug/deps/redirect-0a)\n\
             test one ... \n\
             SKIPPED one: only root may\n\
             ok\n\
             SKIPPED two: only root may\n\
             test two ... ok\n\
             test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n\
             \u{20}    Running tests/probes.rs (target/debug/deps/probes-0b)\n\
             test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n",
            true,
        );
        assert_eq!(tallies.total(), Tally { passed: 7, failed: 0, skipped: 2 });
    }

    #[test]
    fn cluster_tests_are_counted_and_prose_is_not() {
        let tallies = read(
            "install: passed, 3 s\nthe check passed, nothing failed\n12 passed, 1 failed, 3 skipped (4 min)\n",
            false,
        );
        assert_eq!(tallies.total(), Tally { passed: 12, failed: 1, skipped: 3 });
        assert_eq!(tallies.of(Height::Cluster), tallies.total());
    }

    #[test]
    fn a_stage_that_fails_is_a_failure_and_none_is_counted_twice() {
        let mut tallies = read("error: unused variable", false);
        assert_eq!(tallies.total(), Tally { passed: 0, failed: 1, skipped: 0 });
        tallies.read(&["all is well".to_owned()], true);
        tallies.skip();
        assert_eq!(tallies.of(Height::Stage), Tally { passed: 1, failed: 1, skipped: 1 });
        // The cluster could not even be installed: tests that did not run cannot have failed.
        let tallies = read("error: the operator does not become available", false);
        assert_eq!(tallies.of(Height::Stage).failed, 1);
        // Tests passed, and the command failed all the same.
        let tallies = read("test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out", false);
        assert_eq!(tallies.total(), Tally { passed: 5, failed: 1, skipped: 0 });
    }
}
