//! Waits for, and judges, the parts of a cluster: API server, nodes, DNS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use super::network::{node_ip, node_ns_path};
use super::reach::Reach;
use crate::env::Env;

/// A cluster with all its parts starts within this on a slow, busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// A client for the API server of our own cluster, and the way into its network.
///
/// # Errors
/// When there is no such cluster.
pub async fn connect(env: &Env) -> Result<(Client, Arc<Reach>)> {
    let reach = Reach::open(&node_ns_path(env, 1)).context("there is no cluster: start one with `cargo e2e up`")?;
    let local = reach.forward(SocketAddr::from((node_ip(1), 6443))).await?;
    let kubeconfig = Kubeconfig::read_from(env.state.join("pki/admin.kubeconfig"))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.cluster_url = format!("https://{local}").parse()?;
    config.proxy_url = None;
    Ok((Client::try_from(config)?, reach))
}

/// Waits until the API server says that it is ready.
///
/// # Errors
/// When it does not in time.
pub async fn wait_api(env: &Env) -> Result<Client> {
    let (client, _) = connect(env).await?;
    poll("the API server is not ready", PATIENCE, || async {
        let request = http::Request::get("/readyz").body(vec![])?;
        client.request_text(request).await?;
        Ok(())
    })
    .await?;
    Ok(client)
}

/// Waits until `wanted` nodes are Ready.
///
/// # Errors
/// When they are not in time; names those that are not.
pub async fn wait_nodes(client: &Client, wanted: u8) -> Result<()> {
    poll("not all nodes are ready", PATIENCE, || nodes(client, wanted)).await
}

/// Waits until cluster DNS is available.
///
/// # Errors
/// When it is not in time.
pub async fn wait_dns(client: &Client) -> Result<()> {
    poll("CoreDNS is not available", PATIENCE, || dns(client)).await
}

/// Checks a cluster that should be fine; gives it a moment, as the machine may be busy.
///
/// # Errors
/// Says what is wrong.
pub async fn check(env: &Env, wanted: u8) -> Result<()> {
    let (client, _reach) = connect(env).await?;
    poll("the cluster does not answer", Duration::from_secs(30), || async {
        nodes(&client, wanted).await?;
        dns(&client).await
    })
    .await
}

async fn nodes(client: &Client, wanted: u8) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone()).list(&Default::default()).await?;
    let (ready, waiting): (Vec<_>, Vec<_>) = nodes.items.into_iter().partition(is_ready);
    let names: Vec<_> = waiting.into_iter().filter_map(|node| node.metadata.name).collect();
    ensure!(names.is_empty(), "not ready: {}", names.join(", "));
    ensure!(ready.len() >= usize::from(wanted), "{} of {wanted} have registered", ready.len());
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

async fn dns(client: &Client) -> Result<()> {
    let coredns = Api::<Deployment>::namespaced(client.clone(), "kube-system").get_opt("coredns").await?;
    let status = coredns.context("CoreDNS is not deployed")?.status.unwrap_or_default();
    ensure!(status.available_replicas.unwrap_or(0) > 0, "CoreDNS has no available replica");
    Ok(())
}

/// Tries until `attempt` succeeds; the error quotes the last failure.
async fn poll<F: Future<Output = Result<()>>>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<()> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let failed = match tokio::time::timeout_at(deadline, attempt()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(e)) => e,
            Err(_) => bail!("{what}: no answer for {} s", limit.as_secs()),
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(failed).with_context(|| format!("{what} after {} s", limit.as_secs()));
        }
        tokio::time::sleep(POLL).await;
    }
}
