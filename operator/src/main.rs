//! `bowline-operator`: wiring only. What it may do stands in [`bowline_operator::rbac`].

use bowline_operator::{run, runtime::config::Config};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let config = Config::parse();
    bowline_operator::telemetry::init_log(&config.log);
    match run(config).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the operator ends");
            std::process::ExitCode::FAILURE
        }
    }
}
