//! With `KUBECONFIG` set everything runs against a cluster of the user's, and spares it: this very program, from where only that cluster can
//! be reached, with the throw-away cluster in its role.
//!
//! Seen to fail: a command that looked at the throw-away cluster's state instead would bring it up, take it down, or dial its pods, and is
//! found by what it says; a test that is skipped where it should run makes another count.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::context::{Context, Figures};
use crate::meshed::{self, MESH};
use e2e::host::env::{Env, OUT};
use e2e::nodes::network::node_ns_path;
use e2e::nodes::state::Record;
use e2e::programs::kubernetes::Programs;

/// A namespace of somebody's.
const SHOP: &str = "somebodys-shop";
/// What one command may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    cx.delete_ns(SHOP).await?;
    let user = User::new(cx.env())?;
    let before = running(cx.env())?;

    let up = user.succeeds(&["up", "--nodes", "5"]).await?;
    ensure!(up.contains("nothing to bring up"), "`up` said: {up}");
    let down = user.fails(&["down"]).await?;
    ensure!(down.contains("is a cluster of yours"), "`down` said: {down}");
    let load = user.fails(&["load", "Cargo.toml"]).await?;
    ensure!(load.contains("kind load image-archive"), "`load` does not say how images get there: {load}");
    let nodes = user.succeeds(&["kubectl", "--", "get", "nodes", "--output", "name"]).await?;
    ensure!(nodes.contains("node/node1") && !nodes.contains("node/node5"), "`kubectl` said: {nodes}");
    user.succeeds(&["install"]).await?;

    // One that looks at the cluster, one at the operator, one at the metrics of pods; and one that takes the authority away.
    let tests = user.succeeds(&["test", "cluster", "install", "metrics", "backup_restore"]).await?;
    ensure!(tests.contains("\ntest backup_restore: skipped, "), "`test` said: {tests}");
    ensure!(tests.lines().any(|line| line == "3 passed, 0 failed, 1 skipped"), "`test` said: {tests}");

    cx.temp_ns(SHOP, Some(MESH)).await?;
    for command in ["test", "demo"] {
        let said = user.fails(&[command]).await?;
        ensure!(said.contains(SHOP) && said.contains("in use"), "`{command}` does not say whom it spares: {said}");
    }
    ensure!(running(cx.env())? == before, "the throw-away cluster's nodes are others now");
    Ok(Figures::new().with("passed_there", 3).with("skipped_there", 1))
}

/// The processes of the nodes.
fn running(env: &Env) -> Result<Vec<u8>> {
    let record = Record::read(env)?.context("no record of the cluster")?;
    ensure!(record.dead().is_none(), "node {:?} has died", record.dead());
    Ok(serde_json::to_vec(&record)?)
}

/// Somebody who has a cluster, and reaches nothing else.
struct User {
    env: Env,
    path: std::ffi::OsString,
    out: PathBuf,
}

impl User {
    fn new(env: &Env) -> Result<Self> {
        let mut path = Programs::locate(env)?.dirs().to_vec();
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        // Figures of its tests are not those of this run's.
        let out = env.found.join("own_cluster");
        Ok(Self { env: env.clone(), path: std::env::join_paths(path)?, out })
    }

    async fn succeeds(&self, args: &[&str]) -> Result<String> {
        let (good, said) = self.run(args).await?;
        ensure!(good, "`cargo e2e {}` failed: {said}", args.join(" "));
        Ok(said)
    }

    async fn fails(&self, args: &[&str]) -> Result<String> {
        let (good, said) = self.run(args).await?;
        ensure!(!good, "`cargo e2e {}` succeeded: {said}", args.join(" "));
        Ok(said)
    }

    /// Runs this program as the user; returns whether it succeeded, and both its outputs.
    async fn run(&self, args: &[&str]) -> Result<(bool, String)> {
        let network = format!("--net={}", node_ns_path(&self.env, 1).display());
        let run = tokio::process::Command::new("nsenter")
            .args([&network, "--"])
            .arg(&self.env.program)
            .args(args)
            .current_dir(&self.env.root)
            .env("KUBECONFIG", self.env.state.join("pki/admin.kubeconfig"))
            .env("PATH", &self.path)
            .env(OUT, &self.out)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let line = || format!("`cargo e2e {}` with KUBECONFIG", args.join(" "));
        let ran = tokio::time::timeout(PATIENCE, run).await.with_context(line)?.with_context(line)?;
        let said = [ran.stderr, ran.stdout].concat();
        Ok((ran.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }
}
