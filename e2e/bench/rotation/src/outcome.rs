//! What was measured, as a table and as figures.

use std::fmt;

use anyhow::{Context as _, Result};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;

use e2e::report::figures::Figures;

/// What was measured. Processor seconds and leaves are of the rotation alone.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Simulated pods.
    pub proxies: u32,
    /// Replicas of the operator.
    pub replicas: u8,
    /// Whether this was built with optimisation.
    pub optimised: bool,
    /// Until every proxy had a leaf and a stream, all started at once.
    pub start_seconds: f64,
    /// From the request until nothing was under way and every proxy trusted the new root alone.
    pub rotation_seconds: f64,
    /// Seconds by phase.
    #[serde(serialize_with = "by_name")]
    pub phases: Vec<(&'static str, f64)>,
    /// Leaves that were signed.
    pub leaves: u64,
    /// Leaves per second from the step to Active until the last one in that phase.
    pub leaves_per_second: f64,
    /// Leaves per second of one thread that does nothing else.
    pub sign_per_second: f64,
    /// Attempts to get a leaf that failed.
    pub failed_attempts: u64,
    /// Streams that ended or never began.
    pub ended_streams: u64,
    /// Reconciles of the leader.
    pub reconciles: u64,
    /// How long one took on average, in milliseconds.
    pub reconcile_ms: f64,
    /// Reconciles that failed, ever.
    pub failed_reconciles: u64,
    /// Processor seconds of all replicas and the API server.
    pub operator_cpu_seconds: f64,
    /// Processor seconds of all proxies.
    pub proxies_cpu_seconds: f64,
    /// Processor seconds of what stands in for the Service.
    pub service_cpu_seconds: f64,
    /// Resident memory of everything before the start.
    pub memory_before_mib: f64,
    /// The same with every proxy up.
    pub memory_up_mib: f64,
    /// The same after the rotation.
    pub memory_after_mib: f64,
}

fn by_name<S: Serializer>(phases: &[(&'static str, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(phases.len()))?;
    for (name, seconds) in phases {
        map.serialize_entry(name, &rounded(*seconds))?;
    }
    map.end()
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

impl Outcome {
    /// As figures, one for each phase too.
    ///
    /// # Errors
    /// Never, unless this type changes.
    pub fn figures(&self) -> Result<Figures> {
        let Value::Object(all) = serde_json::to_value(self)? else { return Ok(Figures::new()) };
        let mut figures = Figures::new().with("seconds", rounded(self.rotation_seconds));
        for (key, value) in all {
            match value {
                Value::Object(phases) => {
                    for (phase, seconds) in phases {
                        figures.set(&format!("{phase}_seconds"), seconds);
                    }
                }
                Value::Number(n) if n.is_f64() => {
                    figures.set(&key, rounded(n.as_f64().context("a figure is no number")?));
                }
                value => {
                    figures.set(&key, value);
                }
            }
        }
        Ok(figures)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let build = if self.optimised { "optimised" } else { "not optimised" };
        writeln!(f, "{} proxies, {} replicas, {build}", self.proxies, self.replicas)?;
        let mut row = |what: &str, number: f64, unit: &str| writeln!(f, "{what:<44}{number:>10.2}  {unit}");
        row("start: all have leaf and stream", self.start_seconds, "s")?;
        for (phase, seconds) in &self.phases {
            row(&format!("  {}", phase.replace('_', " ")), *seconds, "s")?;
        }
        row("rotation of the root", self.rotation_seconds, "s")?;
        row("leaves signed", self.leaves as f64, "")?;
        row("leaves while Active", self.leaves_per_second, "/s")?;
        row("leaves signed by one thread in a loop", self.sign_per_second, "/s")?;
        row("failed attempts to get a leaf", self.failed_attempts as f64, "")?;
        row("streams that ended or never began", self.ended_streams as f64, "")?;
        row("reconciles", self.reconciles as f64, "")?;
        row("  each", self.reconcile_ms, "ms")?;
        row("failed reconciles", self.failed_reconciles as f64, "")?;
        row("processor time of the operator", self.operator_cpu_seconds, "s")?;
        row("processor time of the proxies", self.proxies_cpu_seconds, "s")?;
        row("processor time of the Service's stand-in", self.service_cpu_seconds, "s")?;
        row("memory before", self.memory_before_mib, "MiB")?;
        row("memory with all up", self.memory_up_mib, "MiB")?;
        row("memory after the rotation", self.memory_after_mib, "MiB")
    }
}
