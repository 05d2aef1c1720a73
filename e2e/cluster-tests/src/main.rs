//! The command behind `cargo e2e test`: wiring of the command line, nothing else.

use std::process::ExitCode;

use anyhow::Result;
use bowline_cluster_tests::{in_use, run};
use clap::{Parser, Subcommand};
use e2e::host::env::Env;
use e2e::host::lock::Lock;

/// Tests on a real cluster.
#[derive(Parser)]
#[command(name = "cargo e2e", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
    /// Fail when somebody uses a mesh on the cluster of KUBECONFIG.
    InUse,
}

fn main() -> ExitCode {
    start(Args::parse().command).unwrap_or_else(|e| {
        eprintln!("error: {e:#}");
        ExitCode::FAILURE
    })
}

fn start(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(go(command, &Env::from_process()?))
}

async fn go(command: Command, env: &Env) -> Result<ExitCode> {
    match command {
        Command::InUse => in_use::refuse(env).await?,
        Command::Test { list: true, .. } => run::list(),
        Command::Test { names, long, release, .. } => {
            let _lock = Lock::cluster(env).await?;
            if !run::run(env, &run::Options { names, long, release }).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
