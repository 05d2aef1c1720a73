//! What failed, by name and with its own words, out of what `cargo test` and `cargo e2e test` print: at the end of a long run the person
//! should not have to look for it.

/// How much is shown of one test.
const LINES_OF_A_TEST: usize = 24;
/// How much is shown of one stage.
const TESTS_OF_A_STAGE: usize = 12;

/// A test that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) name: String,
    /// What it said, at most [`LINES_OF_A_TEST`] lines: the last ones, where the reason stands.
    pub(super) said: Vec<String>,
}

/// What is to be shown of a stage that failed: the first tests that did, in order, or else its last words.
pub(super) fn of_stage(stage: &str, lines: &[String]) -> Vec<Failure> {
    let tests = failures(lines);
    if !tests.is_empty() {
        return tests;
    }
    let said = lines[lines.len().saturating_sub(LINES_OF_A_TEST)..].to_vec();
    vec![Failure { name: stage.to_owned(), said }]
}

fn failures(lines: &[String]) -> Vec<Failure> {
    let mut found: Vec<Failure> = vec![];
    let mut source = "";
    let mut inside = false;
    for line in lines {
        if let Some(program) = line.trim().strip_prefix("Running ") {
            source = program.split(" (").next().unwrap_or(program);
            inside = false;
        } else if let Some(test) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            found.push(Failure { name: format!("{test} ({source})"), said: vec![] });
            inside = true;
        } else if let Some(failure) = on_the_cluster(line) {
            found.push(failure);
            inside = true;
        } else if ends(line) {
            inside = false;
        } else if let Some(last) = found.last_mut().filter(|_| inside && !line.trim().is_empty()) {
            last.said.push(line.clone());
        }
    }
    found.truncate(TESTS_OF_A_STAGE);
    for Failure { said, .. } in &mut found {
        said.drain(..said.len().saturating_sub(LINES_OF_A_TEST));
    }
    found
}

/// `test NAME (3 s): FAILED: why`, and more lines of why below it.
fn on_the_cluster(line: &str) -> Option<Failure> {
    let (head, why) = line.strip_prefix("test ")?.split_once(": FAILED: ")?;
    let name = head.split(" (").next().unwrap_or(head).to_owned();
    Some(Failure { name, said: vec![why.to_owned()] })
}

/// Whether what a failed test said is over: libtest lists names next, and the cluster's tests go on with `[2/30] NAME: …`, a verdict or the sum.
fn ends(line: &str) -> bool {
    let next =
        line.strip_prefix('[').and_then(|rest| rest.split_once('/')).is_some_and(|(n, _)| n.parse::<u32>().is_ok());
    let verdict = line.starts_with("test ") && (line.contains(" s): ") || line.contains(": skipped, "));
    next || verdict
        || line == "failures:"
        || line.starts_with("failed: ")
        || line.contains(" passed, ")
        || line.starts_with("test result: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<Failure> {
        failures(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn rust_tests_are_named_with_their_program_and_words() {
        let found = of("     Running tests/slots.rs (target/debug/deps/slots-0a)\n\
             running 2 tests\ntest one ... FAILED\ntest two ... ok\n\nfailures:\n\n\
             ---- one stdout ----\n\nthread 'one' panicked at proxy/tests/slots.rs:7:5:\nnever was serving\n\n\n\
             failures:\n    one\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n\
             \u{20}    Running tests/life.rs (target/debug/deps/life-0a)\n\
             ---- two stdout ----\nleft: 1\nfailures:\n    two\n");
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].name, "one (tests/slots.rs)");
        assert_eq!(found[0].said, ["thread 'one' panicked at proxy/tests/slots.rs:7:5:", "never was serving"]);
        assert_eq!((found[1].name.as_str(), &found[1].said[..]), ("two (tests/life.rs)", &["left: 1".to_owned()][..]));
    }

    #[test]
    fn tests_on_the_cluster_are_named_with_their_reason() {
        let found = of("[1/3] install: a first user's way\ntest install (5 s): ok\n\
             [2/3] probes: they keep their meaning\ntest probes (9.5 s): FAILED: pod web-1 is not ready: [1/2]\n\
             Caused by:\n    it restarts\n\
             [3/3] metrics: they count\ntest metrics (4 s): FAILED: 3 instead of 4\n1 passed, 2 failed, 0 skipped\nerror: later\n");
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].name, "probes");
        assert_eq!(found[0].said, ["pod web-1 is not ready: [1/2]", "Caused by:", "    it restarts"]);
        assert_eq!((found[1].name.as_str(), &found[1].said[..]), ("metrics", &["3 instead of 4".to_owned()][..]));
    }

    #[test]
    fn what_is_shown_has_a_bound() {
        let many: String = (0..100).map(|n| format!("---- t{n} stdout ----\n{}", "word\n".repeat(100))).collect();
        let found = of(&many);
        assert_eq!(found.len(), TESTS_OF_A_STAGE);
        assert!(found.iter().all(|f| f.said.len() == LINES_OF_A_TEST));
    }

    #[test]
    fn a_stage_without_tests_shows_its_end() {
        let lines: Vec<_> = (0..100).map(|n| format!("line {n}")).chain(["test one ... ok".to_owned()]).collect();
        let found = of_stage("clippy", &lines);
        assert_eq!((found.len(), found[0].name.as_str(), found[0].said.len()), (1, "clippy", LINES_OF_A_TEST));
        assert_eq!(found[0].said.last().unwrap(), "test one ... ok");
        assert_eq!(of_stage("tests", &["---- one stdout ----".to_owned(), "why".to_owned()])[0].said, ["why"]);
    }
}
