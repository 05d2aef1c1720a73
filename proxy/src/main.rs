//! Bowline's sidecar: `run` in the two slots, `gate` in the init container that holds the application back.

use std::{path::PathBuf, process::ExitCode};

use bowline_proxy::{
    process::{gate, lifecycle, standalone},
    telemetry::logs,
};
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bowline's sidecar proxy. Its settings come by environment and mounts; the injector writes both.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the pod, or stand by until the other slot ends.
    Run,
    /// Wait until the proxy is ready, redirect the pod's traffic to it, end.
    Gate,
    /// Carry traffic by a fixed table and with certificates from files: for benchmarks and for trying things out.
    Standalone {
        /// The table, YAML.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    // A standby stays as small as can be: nothing of the command line's parser is touched for it.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|a| a == "run") && arguments.next().is_none() {
        return done(lifecycle::run(variable));
    }
    match Arguments::parse().command {
        Command::Run => done(lifecycle::run(variable)),
        Command::Gate => {
            logs::start(variable);
            done(gate::run(variable))
        }
        Command::Standalone { file } => {
            logs::start(variable);
            done(standalone::run(&file))
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn done(result: Result<(), impl std::error::Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            logs::start(variable);
            tracing::error!("{e}");
            ExitCode::FAILURE
        }
    }
}
