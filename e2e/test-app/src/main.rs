//! The test application: server and client for every protocol that the mesh must pass. It runs in the pods of the cluster tests
//! and of the demo; its client commands print JSON and are run by `kubectl exec`.
//!
//! In: a command and its arguments, or requests at the ports of `serve`. Out: JSON of what was said.
//!
//! Floors, from the ground up: `pattern`, `pod`, `proto` < `response`, `target`, `listener`, `health` < `page`, `websocket`, `fetch`,
//! `expect`, `load` < `control`, `http1`, `grpc`, `tcp` < `serve`, `impostor`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program whose output is the point")]

mod control;
mod expect;
mod fetch;
mod grpc;
mod health;
mod http1;
mod impostor;
mod listener;
mod load;
mod page;
mod pattern;
mod pod;
mod proto;
mod response;
mod serve;
mod target;
mod tcp;
mod websocket;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;

/// Server and client for every protocol that the mesh must pass.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves all protocols until SIGTERM.
    Serve(serve::Args),
    /// Listens on the mesh port with an identity of the caller's choice.
    Impostor(impostor::Args),
    /// One HTTP request on a connection of its own.
    Get(fetch::Args),
    /// An upload that waits for `100 Continue`.
    Expect(expect::Args),
    /// Messages to and fro over a WebSocket.
    Ws(websocket::Args),
    /// One gRPC call.
    Grpc(grpc::client::Args),
    /// One TCP connection: banner, echo, half-close.
    Tcp(tcp::Args),
    /// Load at a fixed rate, then its report.
    Load(load::Args),
    /// Talks to the `serve` process of the same pod: load that goes on by itself, health, counters.
    Ctl(control::Args),
    /// Sleeps, then exits with a code: an init container, a Job.
    Exit {
        /// Seconds to sleep.
        #[arg(long, default_value_t = 0.0)]
        after: f64,
        /// Exit code.
        #[arg(long, default_value_t = 0)]
        code: u8,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve::run(args).await.map(|()| Value::Null),
        Command::Impostor(args) => impostor::run(args).await.map(|()| Value::Null),
        Command::Get(args) => fetch::run(args).await,
        Command::Expect(args) => expect::run(args).await,
        Command::Ws(args) => websocket::run(args).await,
        Command::Grpc(args) => grpc::client::run(args).await,
        Command::Tcp(args) => tcp::run(args).await,
        Command::Load(args) => load::run(args).await,
        Command::Ctl(args) => control::run(args).await,
        Command::Exit { after, code } => {
            tokio::time::sleep(std::time::Duration::from_secs_f64(after)).await;
            return ExitCode::from(code);
        }
    };
    match result {
        Ok(Value::Null) => ExitCode::SUCCESS,
        Ok(value) => {
            println!("{value}");
            // A client that got no answer says so in `error`, and by its exit code for those who only look at that.
            if value["error"].is_string() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::from(2)
        }
    }
}
