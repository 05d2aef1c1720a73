//! Processor time of this process by the names of its threads, and its memory.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

/// Ticks per second in `/proc`: the same on every architecture that this runs on.
const TICKS: f64 = 100.0;

/// Processor seconds (user and system) by the name of the threads that spent them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Usage(BTreeMap<String, f64>);

impl Usage {
    /// Of all threads that live now.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(super) fn now() -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for task in fs::read_dir("/proc/self/task").context("cannot list threads")? {
            // A thread that ended in between counts for nothing.
            let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
            let (name, seconds) = parse(&stat).context("cannot understand the times of a thread")?;
            *by_name.entry(name).or_default() += seconds;
        }
        Ok(Self(by_name))
    }

    /// What was spent since, in threads of that name.
    #[must_use]
    pub(super) fn since(&self, before: &Self, name: &str) -> f64 {
        let of = |usage: &Self| usage.0.get(name).copied().unwrap_or_default();
        of(self) - of(before)
    }
}

/// Name and seconds out of `ID (NAME) STATE …`.
fn parse(stat: &str) -> Option<(String, f64)> {
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut times = rest.split_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some((name.to_owned(), (user + system) / TICKS))
}

/// Resident memory in MiB.
///
/// # Errors
/// When `/proc` cannot be read.
pub(super) fn resident_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read the memory in use")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("the memory in use is not told")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("the memory in use is no number")?;
    Ok(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_behind_a_name_with_anything_in_it() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(parse(stat), Some(("a) b".into(), 3.0)));
        assert_eq!(parse("12"), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_mib().unwrap() > 1.0);
        assert!(!Usage::now().unwrap().0.is_empty());
    }
}
