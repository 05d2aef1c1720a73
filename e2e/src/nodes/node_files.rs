//! The configuration files of one node: containerd, CNI, kubelet, kube-proxy.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::cgroups;
use super::network::{DNS_SERVICE, PODS, pod_subnet};
use crate::host::env::Env;

/// The image that holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "localhost/pause:1";

/// The directory of a node's files.
#[must_use]
pub fn dir(state: &Path, number: u8) -> PathBuf {
    state.join(format!("node{number}"))
}

/// Where a node's containerd listens.
#[must_use]
pub fn containerd_socket(state: &Path, number: u8) -> PathBuf {
    dir(state, number).join("containerd.sock")
}

/// The kubelet starts when this file exists: the images that it needs are loaded.
#[must_use]
pub fn images_ready(state: &Path, number: u8) -> PathBuf {
    dir(state, number).join("images-ready")
}

/// Writes all of them.
///
/// # Errors
/// When a file cannot be written.
pub fn write(env: &Env, number: u8) -> Result<()> {
    let node = dir(&env.state, number);
    for below in ["cni", "log"] {
        std::fs::create_dir_all(node.join(below)).with_context(|| format!("cannot make {}", node.display()))?;
    }
    // JSON is YAML.
    let yaml = |name: &str, value: Value| {
        std::fs::write(node.join(name), serde_json::to_string_pretty(&value)?).map_err(anyhow::Error::from)
    };
    std::fs::write(node.join("resolv.conf"), "")?;
    std::fs::write(node.join("containerd.toml"), containerd(&node))?;
    std::fs::write(node.join("cni/10-pods.conflist"), cni(&node, number).to_string())?;
    yaml("kubelet.yaml", kubelet(env, &node, number))?;
    yaml("kube-proxy.yaml", kube_proxy(&env.state, number))
}

fn containerd(node: &Path) -> String {
    let node = node.display();
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE runc could not lower the score and would give up.
    format!(
        r#"version = 3
root = "{node}/containerd"
state = "{node}/run"
[grpc]
address = "{node}/containerd.sock"
[plugins.'io.containerd.internal.v1.opt']
path = "{node}/opt"
[plugins.'io.containerd.nri.v1.nri']
disable = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{node}/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}

fn cni(node: &Path, number: u8) -> Value {
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": {
            "type": "host-local",
            "dataDir": node.join("ipam"),
            "ranges": [[{"subnet": pod_subnet(number)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

fn kubelet(env: &Env, node: &Path, number: u8) -> Value {
    let pki = env.state.join("pki");
    let never = "0%";
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.join("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.join(format!("node{number}.crt")),
        "tlsPrivateKeyFile": pki.join(format!("node{number}.key")),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", cgroups::name(env, number)),
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": format!("unix://{}", node.join("containerd.sock").display()),
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": node.join("resolv.conf"),
        "podLogsDir": node.join("pod-logs"),
        "volumePluginDir": node.join("volume-plugins"),
        // How full this machine's disk is must not evict pods.
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": never, "imagefs.available": never,
            "nodefs.inodesFree": never, "imagefs.inodesFree": never,
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 250,
    })
}

fn kube_proxy(state: &Path, number: u8) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": state.join("pki/proxy.kubeconfig")},
        "mode": "nftables",
        "clusterCIDR": PODS,
        "conntrack": {"maxPerCore": 0, "min": 0},
        "hostnameOverride": format!("node{number}"),
    })
}
