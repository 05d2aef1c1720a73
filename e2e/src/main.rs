//! `cargo e2e`: wiring of the command line, nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use e2e::cluster::init::Node;
use e2e::env::Env;
use e2e::images::product::Profile;
use e2e::lock::Lock;
use e2e::verify::{self, Options};
use e2e::{bench, cluster, demo, images, install, prereq, report, run_tests};

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
    Test {
        /// Their names; all when none is given.
        names: Vec<String>,
        /// Only print what there is.
        #[arg(long)]
        list: bool,
        /// The longer forms.
        #[arg(long)]
        long: bool,
        /// With images as released.
        #[arg(long)]
        release: bool,
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
    /// A rotation of the root with many simulated proxies, in one process.
    Rotation(bench::rotation::BenchRotation),
}

fn main() -> ExitCode {
    start(Args::parse().command).unwrap_or_else(|e| {
        eprintln!("error: {e:#}");
        ExitCode::FAILURE
    })
}

fn start(command: Command) -> Result<ExitCode> {
    if let Command::NodeInit { number, state } = command {
        cluster::init::run(&Node { number, state })?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Bench(Bench::Rotation(args)) = &command {
        // It has runtimes of its own.
        bench::rotation::run(args, &Env::from_process()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(command, &Env::from_process()?))
}

async fn run(command: Command, env: &Env) -> Result<ExitCode> {
    let _lock = if uses_cluster(&command, env) { Some(Lock::cluster(env).await?) } else { None };
    match command {
        Command::Up { nodes } => cluster::up(env, nodes).await?,
        Command::Down => cluster::down(env).await?,
        Command::Kubectl { args } => {
            let code = cluster::kubectl_command(env)?.args(args).interactive().await?;
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
        }
        Command::Load { archives } => images::load::on_all_nodes(env, &archives).await?,
        Command::Images { release } => {
            let profile = Profile::of(release);
            images::product::build_and_load(env, profile).await?;
            images::product::tell_sizes(env, profile)?;
        }
        Command::Install => install::install(env).await?,
        Command::Demo { release } => demo::run(env, Profile::of(release)).await?,
        Command::Test { list: true, .. } => run_tests::list(),
        Command::Test { names, long, release, .. } => {
            let options = run_tests::Options { names, long, release };
            return Ok(verdict(run_tests::run(env, &options).await?));
        }
        Command::Report => report::print(env)?,
        Command::Bench(Bench::Proxy(args)) => {
            prereq::programs(&bench::PROGRAMS).await?;
            bench::proxy(&args)?;
        }
        Command::Verify { no_cluster, long, keep } => {
            return Ok(verdict(verify::verify(env, Options { no_cluster, long, keep }).await?));
        }
        Command::Bench(Bench::Rotation(_)) | Command::NodeInit { .. } => {
            unreachable!("handled before the runtime starts")
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a command needs the cluster for itself. `verify` takes the lock when it comes to the cluster, `kubectl` must not wait for a test.
fn uses_cluster(command: &Command, env: &Env) -> bool {
    match command {
        Command::Up { .. } | Command::Down | Command::Install | Command::Demo { .. } => true,
        Command::Test { list, .. } => !list,
        // Without a cluster of this machine they only build, which anybody may.
        Command::Load { .. } | Command::Images { .. } => {
            env.kubeconfig.is_none() && prereq::root().is_ok() && cluster::take_down::anything(env)
        }
        Command::Kubectl { .. }
        | Command::Report
        | Command::Bench(_)
        | Command::Verify { .. }
        | Command::NodeInit { .. } => false,
    }
}

fn verdict(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
