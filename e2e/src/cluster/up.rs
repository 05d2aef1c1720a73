//! Brings the cluster up and takes it down: `up` observes what is there, decides, and acts; `down` removes it all.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::health;
use super::kubectl::kubectl_command;
use crate::host::env::Env;
use crate::host::prereq;
use crate::host::progress::{Steps, say, step};
use crate::images::{base, load};
use crate::nodes::pki::Pki;
use crate::nodes::state::Record;
use crate::nodes::{cgroups, init, network, node_files, start_node, state, take_down};
use crate::programs::kubernetes::Programs;

/// What was found of a cluster.
#[derive(Debug, PartialEq, Eq)]
enum Observed {
    Nothing,
    Healthy { nodes: u8 },
    Broken(String),
}

/// What `up` does about it.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Keep,
    /// Start nodes from the first number to the second.
    Start(u8, u8),
    Rebuild(String, u8),
}

fn decide(observed: Observed, wanted: Option<u8>) -> Plan {
    match (observed, wanted) {
        (Observed::Nothing, wanted) => Plan::Start(1, wanted.unwrap_or(1)),
        (Observed::Healthy { nodes }, Some(wanted)) if wanted > nodes => Plan::Start(nodes + 1, wanted),
        (Observed::Healthy { .. }, _) => Plan::Keep,
        (Observed::Broken(why), wanted) => Plan::Rebuild(why, wanted.unwrap_or(1)),
    }
}

/// Nodes of which something is there, but which never got as far as to run: their addition failed or was killed. `recorded` are those
/// that are written down, and whether each has got its images, without which its kubelet does not start.
fn unfinished(recorded: &[(u8, bool)], there: impl IntoIterator<Item = u8>) -> BTreeSet<u8> {
    let finished = |number: &u8| recorded.iter().any(|(n, complete)| n == number && (*complete || *n == 1));
    let recorded = recorded.iter().map(|(number, _)| *number);
    there.into_iter().chain(recorded).filter(|number| !finished(number)).collect()
}

/// About what [`up`] takes beside building programs: starting nodes, or looking at those that run.
#[must_use]
pub fn takes(env: &Env) -> Duration {
    let running = env.kubeconfig.is_some() || Record::read(env).ok().flatten().is_some();
    Duration::from_secs(if running { 5 } else { 60 })
}

/// As [`up`], in announced steps when Kubernetes has to be built first.
///
/// # Errors
/// As [`up`].
pub async fn up_from_nothing(env: &Env, wanted: Option<u8>) -> Result<()> {
    let building = if env.kubeconfig.is_none() { Programs::takes(env)? } else { Duration::ZERO };
    if building.is_zero() {
        return up(env, wanted).await;
    }
    let steps = vec![("building Kubernetes".to_owned(), building), ("starting the cluster".to_owned(), takes(env))];
    let mut steps = Steps::announce("up", steps);
    steps.next();
    prepare(env).await?;
    Programs::build(env).await?;
    steps.next();
    up(env, wanted).await
}

/// Brings a cluster of at least `wanted` nodes up (default: what runs, else one). The caller holds the cluster's lock.
///
/// # Errors
/// Names the step that failed and, where a person can help, what to do.
pub async fn up(env: &Env, wanted: Option<u8>) -> Result<()> {
    if let Some(kubeconfig) = &env.kubeconfig {
        say(format_args!("using the cluster of KUBECONFIG={}: nothing to bring up", kubeconfig.display()));
        return Ok(());
    }
    let wanted_max = wanted.unwrap_or(1);
    ensure!((1..=network::MAX_NODES).contains(&wanted_max), "--nodes is 1 to {}", network::MAX_NODES);
    prereq::warn_of_full_disks(env);
    prereq::for_cluster().await?;
    state::ensure_ours(env)?;
    let programs = Programs::build(env).await?;
    clear_unfinished(env).await?;
    let observed = observe(env, &programs).await?;
    let running = if let Observed::Healthy { nodes } = observed { nodes } else { 0 };
    let (first, last) = match decide(observed, wanted) {
        Plan::Keep => {
            say(format_args!("the cluster is up already: {running} node{} ready", if running == 1 { "" } else { "s" }));
            return Ok(());
        }
        Plan::Start(first, last) => (first, last),
        Plan::Rebuild(why, nodes) => {
            say(format_args!("{why}: starting afresh"));
            step("removing what is left of the old cluster", take_down::take_down(env)).await?;
            (1, nodes)
        }
    };
    let base = base::base(env, &programs).await?;
    step(&format!("starting {} node(s)", last + 1 - first), start(env, &programs, first, last)).await?;
    step("loading images", async {
        for number in first..=last {
            load::on_new_node(env, &programs, number, &base).await?;
        }
        Ok(())
    })
    .await?;
    step("waiting for the API server", health::wait_api(env)).await?;
    step("waiting for the nodes", health::wait_nodes(env, last)).await?;
    let coredns = env.inputs().join("coredns.yaml");
    kubectl_command(env)?.args(["apply", "-f"]).args([coredns]).output().await?;
    step("waiting for CoreDNS", health::wait_dns(env)).await?;
    say(format_args!("the cluster is up: {last} node{} ready", if last == 1 { "" } else { "s" }));
    Ok(())
}

/// Makes sure that a cluster can be started here, before anything long is begun.
///
/// # Errors
/// Names what is missing, or whose directory stands where the cluster's state would.
pub async fn prepare(env: &Env) -> Result<()> {
    prereq::warn_of_full_disks(env);
    prereq::for_cluster().await?;
    state::ensure_ours(env)
}

/// Takes the cluster down. The caller holds the cluster's lock.
///
/// # Errors
/// Names what would not go.
pub async fn down(env: &Env) -> Result<()> {
    if let Some(kubeconfig) = &env.kubeconfig {
        bail!("KUBECONFIG={} is a cluster of yours: take it down yourself, or unset KUBECONFIG", kubeconfig.display());
    }
    state::ensure_ours(env)?;
    if !take_down::anything(env) {
        say("there is no cluster");
        return Ok(());
    }
    step("taking the cluster down", take_down::take_down(env)).await?;
    say("the cluster is gone");
    Ok(())
}

/// Removes what an interrupted addition left of further nodes, so that the cluster can go on without it. Of the first node nothing can be
/// left without it all being left-overs.
async fn clear_unfinished(env: &Env) -> Result<()> {
    let Some(record) = Record::read(env)?.filter(|record| !record.nodes.is_empty()) else { return Ok(()) };
    let complete = |number| node_files::images_ready(&env.state, number).exists();
    let recorded: Vec<_> = record.nodes.iter().map(|node| (node.number, complete(node.number))).collect();
    let there = network::nodes(env).into_iter().chain(cgroups::nodes(env));
    for number in unfinished(&recorded, there) {
        say(format_args!("an earlier start of node {number} was interrupted"));
        step("removing what is left of it", take_down::take_down_node(env, number)).await?;
    }
    Ok(())
}

async fn observe(env: &Env, programs: &Programs) -> Result<Observed> {
    let Some(record) = Record::read(env)? else {
        return Ok(match take_down::anything(env) {
            false => Observed::Nothing,
            true => Observed::Broken("found left-overs of a cluster".into()),
        });
    };
    if record.nodes.is_empty() {
        return Ok(Observed::Broken("an earlier start was interrupted".into()));
    }
    if let Some(dead) = record.dead() {
        return Ok(Observed::Broken(format!("node {dead} has died")));
    }
    if record.programs != programs.dirs() {
        return Ok(Observed::Broken("the running cluster is made of other programs than this checkout's".into()));
    }
    let nodes = u8::try_from(record.nodes.len())?;
    let check = async {
        tokio::select! {
            checked = health::check(env, nodes) => checked,
            // One that is dying does not answer, so there is no use in waiting for it.
            dead = first_death(&record) => bail!("node {dead} has died"),
        }
    };
    Ok(match step("checking the running cluster", check).await {
        Ok(()) => Observed::Healthy { nodes },
        Err(e) => Observed::Broken(format!("the running cluster is not healthy ({e:#})")),
    })
}

async fn first_death(record: &Record) -> u8 {
    loop {
        if let Some(dead) = record.dead() {
            return dead;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Starts nodes `first` to `last`; with the first node everything that the cluster shares.
async fn start(env: &Env, programs: &Programs, first: u8, last: u8) -> Result<()> {
    let (pki, mut record) = if first == 1 {
        let shared = create_shared(env, programs).await;
        shared.with_context(|| format!("cannot make the cluster's state in {}", env.state.display()))?
    } else {
        let record = Record::read(env)?.context("the cluster went away meanwhile: try again")?;
        (Pki::open(&env.state)?, record)
    };
    for number in first..=last {
        start_node::start(env, programs, &pki, &mut record, number).await?;
    }
    Ok(())
}

async fn create_shared(env: &Env, programs: &Programs) -> Result<(Pki, Record)> {
    std::fs::create_dir_all(&env.state)?;
    let missing: Vec<_> = init::PRIVATE.iter().map(Path::new).filter(|dir| !dir.exists()).collect();
    let record = Record {
        programs: programs.dirs().to_vec(),
        made: missing.iter().map(Into::into).collect(),
        netns_mount: !network::netns_is_mount(),
        nodes: vec![],
    };
    // Before anything else is made: a crash from here on is noticed and cleaned up.
    record.write(env)?;
    missing.iter().try_for_each(std::fs::create_dir_all)?;
    let pki = Pki::create(&env.state).await?;
    network::create_bridge(env).await?;
    Ok((pki, record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_what_up_does() {
        assert_eq!(decide(Observed::Nothing, None), Plan::Start(1, 1));
        assert_eq!(decide(Observed::Nothing, Some(3)), Plan::Start(1, 3));
        assert_eq!(decide(Observed::Healthy { nodes: 2 }, None), Plan::Keep);
        assert_eq!(decide(Observed::Healthy { nodes: 2 }, Some(1)), Plan::Keep);
        assert_eq!(decide(Observed::Healthy { nodes: 1 }, Some(2)), Plan::Start(2, 2));
        assert_eq!(decide(Observed::Broken("x".into()), None), Plan::Rebuild("x".into(), 1));
    }

    #[test]
    fn knows_nodes_whose_addition_was_interrupted() {
        let numbers = |recorded: &[(u8, bool)], there: &[u8]| -> Vec<u8> {
            unfinished(recorded, there.iter().copied()).into_iter().collect()
        };
        assert_eq!(numbers(&[(1, true), (2, true)], &[1, 2, 1, 2]), [0; 0]);
        // A namespace or a cgroup that nobody wrote down.
        assert_eq!(numbers(&[(1, true)], &[1, 2]), [2]);
        // Written down, but its kubelet was never let loose.
        assert_eq!(numbers(&[(1, true), (2, true), (3, false)], &[1, 2, 3, 4]), [3, 4]);
        // Without the first node there is no cluster to go on with: that is for `observe` to say.
        assert_eq!(numbers(&[(1, false)], &[1]), [0; 0]);
    }
}
