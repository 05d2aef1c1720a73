//! The cluster's network: one namespace per node, joined by a bridge in a further namespace that has no uplink.
//!
//! Nodes are `10.123.0.N`, pods of node N `10.244.N.0/24`, Services `10.96.0.0/16`. Nothing here reaches the machine's own network.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::host::env::Env;
use crate::host::shell::run;

/// The Service address of the API server.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The Service address of the cluster's DNS.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Addresses of Services.
pub const SERVICES: &str = "10.96.0.0/16";
/// Addresses of all pods.
pub const PODS: &str = "10.244.0.0/16";
/// Node numbers and the third byte of pod addresses end here.
pub const MAX_NODES: u8 = 32;

const NETNS: &str = "/run/netns";

/// The address of a node.
#[must_use]
pub fn node_ip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 123, 0, number)
}

/// The addresses of a node's pods.
#[must_use]
pub fn pod_subnet(number: u8) -> String {
    format!("10.244.{number}.0/24")
}

/// The name of a node's network namespace.
#[must_use]
pub fn node_ns(env: &Env, number: u8) -> String {
    format!("{}-node{number}", env.instance)
}

/// The file that stands for a node's network namespace.
#[must_use]
pub fn node_ns_path(env: &Env, number: u8) -> PathBuf {
    Path::new(NETNS).join(node_ns(env, number))
}

fn wire(env: &Env) -> String {
    format!("{}-wire", env.instance)
}

/// Whether `/run/netns` is already a mount, as the first `ip netns add` makes it.
#[must_use]
pub fn netns_is_mount() -> bool {
    std::fs::read_to_string("/proc/self/mounts").is_ok_and(|m| m.lines().any(|l| l.split(' ').nth(1) == Some(NETNS)))
}

/// Undoes what the first `ip netns add` did, if nobody has a namespace there.
pub async fn remove_netns_mount() {
    if std::fs::read_dir(NETNS).is_ok_and(|mut entries| entries.next().is_none()) {
        let _ = run("umount", &[NETNS]).await;
    }
}

/// Makes the bridge.
///
/// # Errors
/// When `ip` fails.
pub async fn create_bridge(env: &Env) -> Result<()> {
    let ns = wire(env);
    ip(&format!("netns add {ns}")).await?;
    ip(&format!("-n {ns} link add br0 type bridge")).await?;
    ip(&format!("-n {ns} link set br0 up")).await
}

/// Makes a node's namespace, hangs it on the bridge and tells it and the `others` the way to each other's pods.
///
/// # Errors
/// When `ip` fails.
pub async fn create_node(env: &Env, number: u8, others: &[u8]) -> Result<()> {
    let (ns, wire, address) = (node_ns(env, number), wire(env), node_ip(number));
    ip(&format!("netns add {ns}")).await?;
    ip(&format!("-n {ns} link add eth0 type veth peer name n{number} netns {wire}")).await?;
    ip(&format!("-n {wire} link set n{number} master br0 up")).await?;
    ip(&format!("-n {ns} link set lo up")).await?;
    ip(&format!("-n {ns} address add {address}/24 dev eth0")).await?;
    ip(&format!("-n {ns} link set eth0 up")).await?;
    // Without a default route packets to Service addresses never reach the rules that translate them.
    ip(&format!("-n {ns} route add default dev eth0")).await?;
    for other in others {
        ip(&format!("-n {ns} route add {} via {}", pod_subnet(*other), node_ip(*other))).await?;
        let theirs = node_ns(env, *other);
        ip(&format!("-n {theirs} route replace {} via {address}", pod_subnet(number))).await?;
    }
    Ok(())
}

/// Removes all namespaces of this cluster, whoever made them.
///
/// # Errors
/// When one cannot be removed.
pub async fn remove_all(env: &Env) -> Result<()> {
    for name in namespaces(env) {
        ip(&format!("netns delete {name}")).await.with_context(|| format!("network namespace {name} stays"))?;
    }
    Ok(())
}

/// Removes the namespace of a node, and with it the node's end of the wire.
///
/// # Errors
/// When it cannot be removed.
pub async fn remove_node(env: &Env, number: u8) -> Result<()> {
    let name = node_ns(env, number);
    if namespaces(env).contains(&name) {
        ip(&format!("netns delete {name}")).await.with_context(|| format!("network namespace {name} stays"))?;
    }
    // The kernel dissolves a namespace in its own time, and this end goes only then.
    let port = format!("-n {} link delete n{number}", wire(env));
    let _ = ip(&port).await;
    Ok(())
}

/// The numbers of nodes that have a namespace.
#[must_use]
pub fn nodes(env: &Env) -> Vec<u8> {
    let prefix = format!("{}-node", env.instance);
    namespaces(env).iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect()
}

/// The names of this cluster's namespaces that exist.
#[must_use]
pub fn namespaces(env: &Env) -> Vec<String> {
    let entries = std::fs::read_dir(NETNS).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).filter(|name| is_ours(&env.instance, name)).collect()
}

fn is_ours(instance: &str, name: &str) -> bool {
    match name.strip_prefix(instance).and_then(|rest| rest.strip_prefix('-')) {
        Some("wire") => true,
        Some(rest) => rest.strip_prefix("node").is_some_and(|n| n.parse::<u8>().is_ok()),
        None => false,
    }
}

async fn ip(args: &str) -> Result<()> {
    run("ip", &args.split(' ').collect::<Vec<_>>()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_namespaces() {
        assert!(is_ours("bowline", "bowline-node1"));
        assert!(is_ours("bowline", "bowline-wire"));
        assert!(!is_ours("bowline", "bowline-abc123-node1"));
        assert!(!is_ours("bowline", "bowline-nodes"));
        assert!(is_ours("bowline-abc123", "bowline-abc123-node12"));
    }
}
