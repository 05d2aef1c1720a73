//! Runs tests one after the other: prepares what they need, holds them to their deadline, keeps what they found.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::FutureExt as _;

use crate::context::{Context, Figures};
use crate::in_use;
use crate::tests::{Needs, TESTS, Test, Where};
use e2e::cluster::{install, kubectl, up};
use e2e::host::env::Env;
use e2e::host::progress::{about, say};
use e2e::images::compile::{self, Profile};
use e2e::images::{cert_manager, product};

/// Nodes of the cluster that tests run on.
const NODES: u8 = 2;

/// Which tests, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Their names; all when none is given.
    pub names: Vec<String>,
    /// The longer forms.
    pub long: bool,
    /// With images as released.
    pub release: bool,
}

/// Prints the table of tests.
pub fn list() {
    let width = TESTS.iter().map(|test| test.name.len()).max().unwrap_or(0);
    for test in TESTS {
        let place = match test.place {
            Where::Anywhere => String::new(),
            Where::TwoNodes => " (skipped with KUBECONFIG: on a cluster of one node)".into(),
            Where::ThrowAway(why) => format!(" (skipped with KUBECONFIG: {why})"),
        };
        println!("{:width$}  {}{place}", test.name, test.proves);
    }
}

/// How the tests of a run ended.
#[derive(Default)]
struct Counts {
    passed: usize,
    failed: Vec<&'static str>,
    skipped: usize,
}

/// Runs the chosen tests and prints a line for each and the counts at the end. Returns whether none failed. The caller holds the cluster's
/// lock.
///
/// # Errors
/// When a name is none of a test, when somebody uses a mesh on a cluster that is not ours, or when the cluster or the operator cannot be
/// brought up.
pub async fn run(env: &Env, options: &Options) -> Result<bool> {
    let chosen = choose(&options.names)?;
    in_use::refuse(env).await?;
    let profile = Profile::of(options.release);
    let with_operator = chosen.iter().any(|test| test.needs != Needs::Cluster);
    // Beside Kubernetes, where that has to be built.
    let compilation = with_operator.then(|| compile::start(env, profile));
    up::up(env, Some(NODES)).await?;
    let nodes = if env.kubeconfig.is_none() { NODES.into() } else { count_nodes(env).await? };
    let runs = |test: &&&Test| test.needs != Needs::Cluster && obstacle(env, test, nodes).is_none();
    if let Some(compilation) = compilation
        && chosen.iter().any(|test| runs(&test))
    {
        product::finish_and_load(env, profile, compilation).await?;
        install::install(env).await?;
    }
    let mut counts = Counts::default();
    let mut left: Duration = chosen.iter().map(|test| takes(env, test)).sum();
    for (n, test) in chosen.iter().enumerate() {
        say(format_args!("[{}/{}] {}: {}{}", n + 1, chosen.len(), test.name, test.proves, about(left)));
        left = left.saturating_sub(takes(env, test));
        match obstacle(env, test, nodes) {
            Some(why) => {
                println!("test {}: skipped, {why}", test.name);
                counts.skipped += 1;
                Figures::new().with("result", "skipped").write(env, test.name)?;
            }
            None => timed(env, test, options.long, &mut counts).await?,
        }
    }
    let Counts { passed, failed, skipped } = counts;
    if !failed.is_empty() {
        println!("failed: {}", failed.join(" "));
    }
    println!("{passed} passed, {} failed, {skipped} skipped", failed.len());
    Ok(failed.is_empty())
}

/// What a test took the last time, or a third of what it may take.
fn takes(env: &Env, test: &Test) -> Duration {
    let before = Figures::read(env, test.name).ok().flatten();
    let seconds = before.and_then(|figures| figures.get("seconds")?.as_f64()).filter(|seconds| seconds.is_finite());
    Duration::from_secs_f64(seconds.unwrap_or(test.minutes as f64 * 20.0).max(0.0))
}

/// Why a test does not run on this cluster.
fn obstacle(env: &Env, test: &Test, nodes: usize) -> Option<String> {
    match test.place {
        Where::ThrowAway(why) if env.kubeconfig.is_some() => {
            Some(format!("{why}: only on the throw-away cluster (unset KUBECONFIG to run it there)"))
        }
        Where::TwoNodes if nodes < 2 => Some(format!("it wants two nodes, and the cluster has {nodes}")),
        _ => None,
    }
}

async fn count_nodes(env: &Env) -> Result<usize> {
    let names = kubectl::kubectl_command(env)?.args(["get", "nodes", "--output", "name"]).output().await?;
    Ok(names.split_whitespace().count())
}

/// Runs one test, prints how it ended and keeps its figures.
async fn timed(env: &Env, test: &'static Test, long: bool, counts: &mut Counts) -> Result<()> {
    let prepared = prepare(env, test.needs).await;
    let start = Instant::now();
    let result = match prepared {
        Ok(()) => one(env, test, long).await,
        Err(e) => Err(e),
    };
    let seconds = (start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let (figures, verdict) = match result {
        Ok(figures) => {
            counts.passed += 1;
            (figures, "ok".to_owned())
        }
        Err(e) => {
            counts.failed.push(test.name);
            (Figures::new(), format!("FAILED: {e:#}"))
        }
    };
    println!("test {} ({seconds} s): {verdict}", test.name);
    keep(env, test.name, figures, verdict == "ok", seconds)
}

fn choose(names: &[String]) -> Result<Vec<&'static Test>> {
    if names.is_empty() {
        return Ok(TESTS.iter().collect());
    }
    let find = |name: &String| {
        let known = || TESTS.iter().map(|test| test.name).collect::<Vec<_>>().join(", ");
        TESTS
            .iter()
            .find(|test| test.name == name)
            .with_context(|| format!("no test is called {name}; there are: {}", known()))
    };
    names.iter().map(find).collect()
}

/// Makes what only few tests need: when that cannot be had, only they fail. It is not on their clock.
async fn prepare(env: &Env, needs: Needs) -> Result<()> {
    match needs {
        Needs::Cluster | Needs::Operator => Ok(()),
        Needs::CertManager => cert_manager::cert_manager(env).await.context("cert-manager cannot be had"),
    }
}

/// Runs one test; a panic is a failure, and so is the deadline.
async fn one(env: &Env, test: &Test, long: bool) -> Result<Figures> {
    let cx = Context::connect(env, test.name, long, TESTS.iter().map(|test| test.name).collect()).await?;
    let limit = Duration::from_secs(60 * test.minutes * if long { 3 } else { 1 });
    let run = AssertUnwindSafe((test.run)(&cx)).catch_unwind();
    let result = match tokio::time::timeout(limit, run).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(anyhow!("panicked: {}", panic_message(panic.as_ref()))),
        Err(_) => Err(anyhow!("not done after {} min", limit.as_secs() / 60)),
    };
    match result {
        Ok(figures) => {
            cx.forget_diagnosis();
            cx.clean_up().await;
            Ok(figures)
        }
        Err(e) => {
            let dir = cx.diagnose(&e).await;
            let kept = cx.own_namespaces().join(", ");
            bail!(
                "{e:#}\n  see {}; kept for a look: {}",
                dir.display(),
                if kept.is_empty() { "nothing" } else { &kept }
            )
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

fn keep(env: &Env, name: &str, mut figures: Figures, passed: bool, seconds: f64) -> Result<()> {
    figures.set("result", if passed { "passed" } else { "failed" });
    if figures.get("seconds").is_none() {
        figures.set("seconds", seconds);
    }
    figures.write(env, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let error = choose(&["nonsense".into()]).err().unwrap().to_string();
        assert!(error.contains("nonsense") && error.contains("cluster_leaves_nothing"), "{error}");
        assert_eq!(choose(&["cluster".into()]).unwrap().len(), 1);
    }

    #[test]
    fn what_destroys_is_skipped_on_a_cluster_of_the_users() {
        let ours = Env { kubeconfig: None, ..Env::from_process().unwrap() };
        let theirs = Env { kubeconfig: Some("/home/somebody/.kube/config".into()), ..ours.clone() };
        assert!(TESTS.iter().all(|test| obstacle(&ours, test, 2).is_none()));
        let skipped = |nodes| -> Vec<_> {
            TESTS.iter().filter(|test| obstacle(&theirs, test, nodes).is_some()).map(|test| test.name).collect()
        };
        assert!(skipped(1).contains(&"forty_pods") && !skipped(2).contains(&"forty_pods"));
        let skipped = skipped(2);
        for name in ["backup_restore", "bad_mesh", "rotation_sources", "own_cluster", "cluster_leaves_nothing"] {
            assert!(skipped.contains(&name), "{name} would run on a cluster of the user's");
        }
        for name in ["cluster", "install", "protocols", "probes", "pod_shapes", "metrics", "control_plane_gone", "cost"]
        {
            assert!(!skipped.contains(&name), "{name} is skipped");
        }
    }
}
