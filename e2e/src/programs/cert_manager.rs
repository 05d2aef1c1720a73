//! Third-party programs that single tests need: built when such a test is to run, and kept like the cluster's own.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::build::{Module, Program, build_missing};
use crate::host::env::Env;
use crate::host::prereq;
use crate::host::progress::step;
use crate::host::shell::Cmd;

const CERT_MANAGER: Module = Module {
    dir: "cert-manager",
    ldflags: "-s -w",
    programs: &[Program { name: "cert-manager", package: "." }],
    cold: 214,
};
/// The Go module that cert-manager is made of.
const CERT_MANAGER_SOURCE: &str = "github.com/cert-manager/cert-manager";

/// Builds cert-manager's controller, unless it is there; returns the program.
///
/// # Errors
/// When Go is missing or the build fails.
pub async fn cert_manager(env: &Env) -> Result<PathBuf> {
    let dir = CERT_MANAGER.locate(env)?;
    build_missing(env, &[CERT_MANAGER]).await?;
    Ok(dir.join("cert-manager"))
}

/// The directory of cert-manager's CustomResourceDefinitions, of the same version as the controller.
///
/// # Errors
/// When the module cannot be downloaded.
pub async fn cert_manager_crds(env: &Env) -> Result<PathBuf> {
    let go = prereq::for_go(env).await?;
    // Downloads only what the module cache lacks, and says where it is.
    let download = Cmd::new(go)
        .args(["mod", "download", "-json", CERT_MANAGER_SOURCE])
        .env("GOFLAGS", "-mod=readonly")
        .dir(&CERT_MANAGER.source(env));
    let said = step("fetching cert-manager's CustomResourceDefinitions", download.output()).await?;
    let said: Value = serde_json::from_str(&said).context("`go mod download -json` printed no JSON")?;
    let dir = said["Dir"].as_str().with_context(|| format!("no directory of {CERT_MANAGER_SOURCE} in {said}"))?;
    Ok(PathBuf::from(dir).join("deploy/crds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_checked_in() {
        let env = Env::from_process().unwrap();
        assert!(CERT_MANAGER.locate(&env).unwrap().starts_with(env.cache.join("programs")));
    }
}
