//! The tests on a real cluster, in the order in which they run.
//!
//! A test is a file `tests/NAME.rs` with `pub async fn run(cx: &Context) -> Result<Figures>` and a line in [`TESTS`].

pub mod cluster;
pub mod cluster_leaves_nothing;

use anyhow::Result;
use futures_util::future::BoxFuture;

use crate::context::{Context, Figures};

/// What must be there before a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// A cluster of two nodes.
    Cluster,
    /// Also our images on its nodes, and the operator installed.
    Operator,
}

/// One test.
pub struct Test {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it proves, in one line.
    pub proves: &'static str,
    /// What it builds upon.
    pub needs: Needs,
    /// It fails when it takes longer; three times that in its long form.
    pub minutes: u64,
    /// The test itself.
    pub run: for<'a> fn(&'a Context) -> BoxFuture<'a, Result<Figures>>,
}

macro_rules! test {
    ($module:ident, $needs:ident, $minutes:literal min, $proves:literal) => {
        Test {
            name: stringify!($module),
            proves: $proves,
            needs: Needs::$needs,
            minutes: $minutes,
            run: |cx| Box::pin($module::run(cx)),
        }
    };
}

/// All of them.
pub const TESTS: &[Test] = &[
    test!(cluster, Cluster, 3 min, "nodes are ready, DNS answers, Services and exec work across nodes"),
    test!(cluster_leaves_nothing, Cluster, 5 min, "a second cluster survives a crash of its node and leaves nothing behind"),
];

#[cfg(test)]
mod table {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TESTS.iter().map(|test| test.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TESTS.len());
    }
}
