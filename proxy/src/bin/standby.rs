//! Stands by in the slot that does not serve, and becomes the proxy when the other slot ends. A program of its own, because the
//! proxy's would keep megabytes of itself mapped just to sleep.

use std::process::ExitCode;

use bowline_proxy::{
    contract::bootstrap::env,
    process::{settings, slots},
};

fn main() -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok();
    let slot = variable(env::SLOT).unwrap_or_default();
    match slots::take(&settings::slots_dir(variable), &slot, || ()) {
        Ok(serving) => {
            // The proxy takes the lock anew; should the other slot be quicker, this one stands by again.
            drop(serving);
            let error = slots::exec_sibling(slots::PROXY_PROGRAM, &["run"]);
            eprintln!("{} cannot be started: {error}", slots::PROXY_PROGRAM);
        }
        Err(error) => eprintln!("{error}"),
    }
    ExitCode::FAILURE
}
