//! `cargo e2e`: wiring of the command line, nothing else.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{self, ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use e2e::cluster::{install, kubectl, up};
use e2e::host::env::{Env, PROGRAM};
use e2e::host::lock::Lock;
use e2e::host::progress::say;
use e2e::host::{cargo, prereq};
use e2e::images::compile::Profile;
use e2e::images::{load, product};
use e2e::nodes::init::{self, Node};
use e2e::nodes::take_down;
use e2e::report::table;
use e2e::verify::{self, Options};
use e2e::{bench, demo};

/// A throw-away Kubernetes on this machine, and everything that is done with it.
///
/// With KUBECONFIG set, the commands use that cluster instead.
#[derive(Parser)]
#[command(name = "cargo e2e", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the cluster up; the first time this builds Kubernetes, which takes a quarter of an hour.
    Up {
        /// At least so many nodes; more are added to a running cluster.
        #[arg(long)]
        nodes: Option<u8>,
    },
    /// Take the cluster down and leave nothing behind.
    Down,
    /// Run kubectl as the cluster's administrator: `cargo e2e kubectl -- get pods -A`.
    Kubectl {
        /// Arguments of kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Load image archives on all nodes.
    Load {
        /// Docker archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Build the images of operator, proxy and test application, and load them on all nodes.
    Images {
        /// Optimise as for a release, which takes longer.
        #[arg(long)]
        release: bool,
    },
    /// Install the operator with `kubectl apply -k config/default`.
    Install,
    /// From nothing to a mesh with traffic in it: bring up what is missing, then show who talks to whom.
    Demo {
        /// With images as released.
        #[arg(long)]
        release: bool,
    },
    /// Run tests on the cluster; brings up what they need.
    ///
    /// `cargo e2e test [NAME…] [--list] [--long] [--release]`: those called so, or all; only print what there is; in their longer forms; with
    /// images as released.
    Test {
        /// See above.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Print what the tests measured.
    Report,
    /// Measure.
    #[command(subcommand)]
    Bench(Bench),
    /// Run everything: formatting, dependencies, lints, all Rust tests, then all tests on a cluster.
    Verify {
        /// Leave out what needs a cluster.
        #[arg(long)]
        no_cluster: bool,
        /// Run the longer forms of the tests on the cluster.
        #[arg(long)]
        long: bool,
        /// Leave the cluster running at the end.
        #[arg(long)]
        keep: bool,
    },
    /// PID 1 of a node; started by `up`.
    #[command(hide = true)]
    NodeInit {
        #[arg(long)]
        number: u8,
        #[arg(long)]
        state: PathBuf,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Our proxy pair beside its peers, in one run.
    Proxy(bench::BenchProxy),
    /// A rotation of the root with many simulated proxies, in one process; `--help` behind `--` says what it takes.
    Rotation {
        /// `--proxies N`, `--replicas N`, `--json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    start(Args::parse().command).unwrap_or_else(|e| {
        eprintln!("error: {e:#}");
        ExitCode::FAILURE
    })
}

fn start(command: Command) -> Result<ExitCode> {
    if let Command::NodeInit { number, state } = command {
        init::run(&Node { number, state })?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(command, &Env::from_process()?))
}

async fn run(command: Command, env: &Env) -> Result<ExitCode> {
    let _lock = if uses_cluster(&command, env) { Some(Lock::cluster(env).await?) } else { None };
    match command {
        Command::Up { nodes } => {
            up::up_from_nothing(env, nodes).await?;
        }
        Command::Down => up::down(env).await?,
        Command::Kubectl { args } => {
            let code = kubectl::kubectl_command(env)?.args(args).interactive().await?;
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
        }
        Command::Load { archives } => load::on_all_nodes(env, &archives).await?,
        Command::Images { release } => {
            let profile = Profile::of(release);
            product::build_and_load(env, profile).await?;
            product::tell_sizes(env, profile)?;
        }
        Command::Install => install::install(env).await?,
        Command::Demo { release } => {
            if env.kubeconfig.is_some() {
                // On a cluster of the user's: the tests know whom demo and tests would harm.
                let mut tests = other(env, &TESTS)?;
                anyhow::ensure!(tests.arg("in-use").status()?.success(), "the demo leaves this cluster alone");
            }
            demo::run(env, Profile::of(release)).await?;
        }
        Command::Test { args } => return become_other(other(env, &TESTS)?.arg("test").args(args)),
        Command::Report => table::print(env)?,
        Command::Bench(Bench::Proxy(args)) => {
            prereq::programs(&bench::PROGRAMS).await?;
            bench::proxy(&args)?;
        }
        Command::Verify { no_cluster, long, keep } => {
            return Ok(verdict(verify::verify(env, Options { no_cluster, long, keep }).await?));
        }
        Command::Bench(Bench::Rotation { args }) => return become_other(other(env, &ROTATION)?.args(args)),
        Command::NodeInit { .. } => unreachable!("handled before the runtime starts"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a command needs the cluster for itself. `verify` takes the lock when it comes to the cluster, `kubectl` must not wait for a test.
fn uses_cluster(command: &Command, env: &Env) -> bool {
    match command {
        Command::Up { .. } | Command::Down | Command::Install | Command::Demo { .. } => true,
        // Without a cluster of this machine they only build, which anybody may.
        Command::Load { .. } | Command::Images { .. } => {
            env.kubeconfig.is_none() && prereq::root().is_ok() && take_down::anything(env)
        }
        Command::Kubectl { .. }
        | Command::Report
        // It takes the lock itself, when it is compiled.
        | Command::Test { .. }
        | Command::Bench(_)
        | Command::Verify { .. }
        | Command::NodeInit { .. } => false,
    }
}

/// A program of the workspace that is compiled when it is first asked for.
struct Other {
    package: &'static str,
    what: &'static str,
    /// What compiling it takes on two cores from nothing.
    minutes: u64,
}

const TESTS: Other = Other { package: "bowline-cluster-tests", what: "the tests on the cluster", minutes: 5 };
const ROTATION: Other = Other { package: "bowline-bench-rotation", what: "the benchmark of rotations", minutes: 5 };

/// Compiled by cargo, in the foreground; its arguments follow.
fn other(env: &Env, Other { package, what, minutes }: &Other) -> Result<process::Command> {
    if !env.target.join("debug").join(package).is_file() {
        say(format_args!("[1/2] compiling {what}, about {minutes} min the first time; [2/2] running them"));
    }
    let mut command = process::Command::new(cargo::program());
    command.args(["run", "--package", package, "--"]).current_dir(&env.root);
    command.env(PROGRAM, &env.program);
    Ok(command)
}

/// Goes on as another program: its exit code is this one's, and signals reach it.
fn become_other(command: &mut process::Command) -> Result<ExitCode> {
    Err(command.exec()).with_context(|| format!("cannot start {command:?}"))
}

fn verdict(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
