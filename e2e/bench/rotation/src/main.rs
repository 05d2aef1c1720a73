//! `cargo e2e bench rotation`: wiring of the command line, nothing else.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use bowline_bench_rotation::measure::Bench;
use clap::Parser;
use e2e::host::env::Env;

/// Longer than this for a rotation is worth a warning.
const SLOW: Duration = Duration::from_secs(60);
/// Most proxies: each has a source address of its own.
const MOST: i64 = 10_000;

/// A rotation of the root with many simulated proxies, in one process.
#[derive(Debug, Parser)]
#[command(name = "cargo e2e bench rotation", version)]
struct Args {
    /// Simulated pods.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=MOST))]
    proxies: u32,
    /// Replicas of the operator.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    replicas: u8,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    // Outside of any runtime: it has its own.
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints, and leaves the figures with those of the tests.
fn run(args: &Args) -> Result<()> {
    let bench = Bench { proxies: args.proxies, replicas: args.replicas, sign_for: Duration::from_secs(2) };
    let dir = std::env::temp_dir().join(format!("bowline-bench-rotation-{}", std::process::id()));
    let outcome = bench.measure(&dir)?;
    outcome.figures()?.write(&Env::from_process()?, "bench_rotation")?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        print!("{outcome}");
    }
    if outcome.rotation_seconds > SLOW.as_secs_f64() {
        eprintln!("bench: warning: the rotation took longer than {} s", SLOW.as_secs());
    }
    Ok(())
}
