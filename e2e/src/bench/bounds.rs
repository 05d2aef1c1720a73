//! What the proxy pair is promised to cost at most, against one run of the harness: `cargo e2e bench proxy --check`.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// Peers that the bounds speak of.
pub(super) const PEERS: &str = "bowline,bare";
/// Workloads that they speak of.
pub(super) const WORKLOADS: &str = "w1,w2,w3,w6";
/// Topologies that they speak of.
pub(super) const TOPOLOGIES: &str = "h1,mux,h2";

/// CPU of other processes in cores, and steal, above which a sample is disturbed.
const DISTURBED: (f64, f64) = (0.1, 0.05);

/// What the harness wrote.
#[derive(Deserialize)]
struct Run {
    samples: Vec<Sample>,
}

/// One workload of one peer in one round. What a workload does not measure is missing.
#[derive(Clone, Deserialize)]
struct Sample {
    peer: String,
    topo: String,
    workload: String,
    round: u32,
    #[serde(default)]
    foreign: f64,
    #[serde(default)]
    steal: f64,
    errors: u64,
    cpu: Option<f64>,
    start_ms: Option<f64>,
    rss_a: Option<f64>,
    rss_b: Option<f64>,
    rss_a_1k: Option<f64>,
    rss_b_1k: Option<f64>,
}

/// One promise.
struct Bound {
    /// What is promised.
    what: &'static str,
    /// Of this workload and topology.
    of: (&'static str, &'static str),
    /// At most so much.
    most: f64,
    /// What of a sample, the one of the same round of the bare pair beside it where the promise compares.
    value: Value,
}

enum Value {
    Own(fn(&Sample) -> Option<f64>),
    /// CPU in terms of the bare pair's.
    TimesBare,
}

/// Everything that is promised.
const BOUNDS: [Bound; 7] = [
    Bound {
        what: "CPU per HTTP/1 request at full rate, in bare pairs",
        of: ("w1", "mux"),
        most: 1.3,
        value: Value::TimesBare,
    },
    Bound {
        what: "CPU per request at 1,000 rps, in bare pairs",
        of: ("w2", "mux"),
        most: 1.3,
        value: Value::TimesBare,
    },
    Bound { what: "CPU per HTTP/2 request, µs", of: ("w3", "h2"), most: 70.0, value: Value::Own(|s| s.cpu) },
    Bound {
        what: "resident at rest, MiB",
        of: ("w6", "h1"),
        most: 20.0,
        value: Value::Own(|s| Some(s.rss_a?.max(s.rss_b?) / 1024.0)),
    },
    Bound {
        what: "for each idle connection at the caller, KiB",
        of: ("w6", "h1"),
        most: 15.0,
        value: Value::Own(|s| Some((s.rss_a_1k? - s.rss_a?) / 1000.0)),
    },
    Bound {
        what: "for each idle connection at the callee, KiB",
        of: ("w6", "h1"),
        most: 15.0,
        value: Value::Own(|s| Some((s.rss_b_1k? - s.rss_b?) / 1000.0)),
    },
    Bound { what: "ready after start, ms", of: ("w6", "h1"), most: 100.0, value: Value::Own(|s| s.start_ms) },
];

/// Compares the harness's results with [`BOUNDS`] and prints a line for each.
///
/// # Errors
/// Names the lines that miss, or that were not measured.
pub(super) fn check(results: &Path) -> Result<()> {
    let text = std::fs::read(results).with_context(|| format!("cannot read {}", results.display()))?;
    let run: Run = serde_json::from_slice(&text).with_context(|| format!("{} has no results", results.display()))?;
    let verdicts: Vec<_> = BOUNDS.iter().map(|bound| bound.judge(&run)).collect();
    for (line, _) in &verdicts {
        println!("{line}");
    }
    let missed: Vec<_> = verdicts.iter().filter(|(_, holds)| !holds).map(|(line, _)| line.as_str()).collect();
    ensure!(missed.is_empty(), "not as promised:\n  {}", missed.join("\n  "));
    Ok(())
}

impl Bound {
    /// A line to print, and whether the promise is kept.
    fn judge(&self, run: &Run) -> (String, bool) {
        let Self { what, of: (workload, topology), most, .. } = self;
        let ours = samples(run, "bowline", self.of);
        let errors: u64 = ours.iter().map(|s| s.errors).sum();
        let values = ours.iter().filter_map(|s| match self.value {
            Value::Own(of) => of(s),
            Value::TimesBare => {
                let bare = samples(run, "bare", self.of).into_iter().find(|b| b.round == s.round)?;
                Some(s.cpu? / bare.cpu.filter(|cpu| *cpu > 0.0)?)
            }
        });
        let Some(value) = median(values.collect()) else {
            return (format!("{workload}/{topology} {what}: not measured, at most {most}: MISSED"), false);
        };
        let holds = value <= *most && errors == 0;
        let verdict = if holds { "ok" } else { "MISSED" };
        let failed = if errors == 0 { String::new() } else { format!(", {errors} requests failed") };
        (format!("{workload}/{topology} {what}: {value:.2}, at most {most}{failed}: {verdict}"), holds)
    }
}

/// The samples of a peer; disturbed ones only where there is no other.
fn samples(run: &Run, peer: &str, (workload, topology): (&str, &str)) -> Vec<Sample> {
    let all = run.samples.iter().filter(|s| s.peer == peer && s.workload == workload && s.topo == topology);
    let (noisy, clean): (Vec<_>, Vec<_>) = all.cloned().partition(|s| s.foreign > DISTURBED.0 || s.steal > DISTURBED.1);
    if clean.is_empty() { noisy } else { clean }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn run(change: impl Fn(&mut Json)) -> Vec<(String, bool)> {
        let at_rest = json!({
            "peer": "bowline", "topo": "h1", "workload": "w6", "errors": 0, "start_ms": 20.0,
            "rss_a": 8000, "rss_b": 9000, "rss_a_1k": 19000, "rss_b_1k": 20000,
        });
        let cpu = |peer: &str, topo: &str, workload: &str, cpu: f64| {
            json!({
                "peer": peer, "topo": topo, "workload": workload, "cpu": cpu, "errors": 0, "foreign": 0.0, "steal": 0.0,
            })
        };
        let mut samples = vec![at_rest, cpu("bowline", "h2", "w3", 60.0)];
        for workload in ["w1", "w2"] {
            samples.extend([cpu("bowline", "mux", workload, 50.0), cpu("bare", "mux", workload, 45.0)]);
        }
        let rounds = (0..3).flat_map(|round| {
            samples.clone().into_iter().map(move |mut sample| {
                sample["round"] = round.into();
                sample
            })
        });
        let mut run = json!({ "samples": rounds.collect::<Vec<_>>() });
        change(&mut run);
        let run: Run = serde_json::from_value(run).unwrap();
        BOUNDS.iter().map(|bound| bound.judge(&run)).collect()
    }

    fn missed(change: impl Fn(&mut Json)) -> Vec<String> {
        run(change).into_iter().filter(|(_, holds)| !holds).map(|(line, _)| line).collect()
    }

    fn each(run: &mut Json, workload: &str, peer: &str, change: impl Fn(&mut Json)) {
        let samples = run["samples"].as_array_mut().unwrap();
        samples.iter_mut().filter(|s| s["workload"] == workload && s["peer"] == peer).for_each(change);
    }

    #[test]
    fn what_is_promised_holds() {
        assert_eq!(missed(|_| ()), Vec::<String>::new());
    }

    #[test]
    fn every_line_can_miss() {
        for (workload, field, value, lines) in [
            ("w1", "cpu", 60.0, 1),
            ("w2", "cpu", 60.0, 1),
            ("w3", "cpu", 71.0, 1),
            // More at rest, and so less for each connection.
            ("w6", "rss_b", 20.0 * 1024.0 + 1.0, 1),
            ("w6", "rss_a_1k", 24_000.0, 1),
            ("w6", "rss_b_1k", 25_000.0, 1),
            ("w6", "start_ms", 101.0, 1),
            ("w3", "errors", 1.0, 1),
        ] {
            let value = if field == "errors" { json!(1) } else { json!(value) };
            let lines_missed = missed(|run| each(run, workload, "bowline", |s| s[field] = value.clone()));
            assert_eq!(lines_missed.len(), lines, "{workload} {field}: {lines_missed:?}");
            assert!(lines_missed[0].starts_with(workload), "{lines_missed:?}");
        }
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        let none = missed(|run| run["samples"] = json!([]));
        assert_eq!(none.len(), BOUNDS.len());
        assert!(none[0].contains("not measured"), "{none:?}");
        let no_bare = missed(|run| each(run, "w1", "bare", |s| s["peer"] = "other".into()));
        assert!(no_bare.len() == 1 && no_bare[0].contains("not measured"), "{no_bare:?}");
    }

    #[test]
    fn a_disturbed_sample_counts_only_alone() {
        let disturb = |s: &mut Json| {
            s["cpu"] = json!(500.0);
            s["foreign"] = json!(0.5);
        };
        let one = |run: &mut Json| {
            each(run, "w3", "bowline", |s| {
                if s["round"] == 0 {
                    disturb(s)
                }
            })
        };
        assert!(missed(one).is_empty());
        assert_eq!(missed(|run| each(run, "w3", "bowline", disturb)).len(), 1);
    }
}
