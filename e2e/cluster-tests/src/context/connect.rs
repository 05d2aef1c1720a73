//! The connection of one test to its cluster.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::cluster::kubectl::kubectl_command;
use e2e::host::env::Env;
use e2e::nodes::network::{node_ip, node_ns_path};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::reach::Reach;

/// One test's view of the cluster.
pub struct Context {
    pub(super) env: Env,
    pub(super) test: String,
    client: Client,
    pub(super) reach: Option<Arc<Reach>>,
    long: bool,
    all: Vec<&'static str>,
    pub(super) namespaces: Mutex<Vec<String>>,
}

impl Context {
    /// Connects to the cluster on behalf of the test called `test`; `all` are the names of all tests that there are.
    ///
    /// # Errors
    /// When there is no cluster or `KUBECONFIG` cannot be used.
    pub async fn connect(env: &Env, test: &str, long: bool, all: Vec<&'static str>) -> Result<Self> {
        let (client, reach) = if env.kubeconfig.is_some() {
            (Client::try_default().await.context("KUBECONFIG cannot be used")?, None)
        } else {
            let (client, reach) = connect(env).await?;
            (client, Some(reach))
        };
        Ok(Self { env: env.clone(), test: test.into(), client, reach, long, all, namespaces: Mutex::default() })
    }

    /// A client with the administrator's rights.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Places and settings.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Whether the longer form of the test was asked for.
    #[must_use]
    pub fn long(&self) -> bool {
        self.long
    }

    /// The names of all tests that there are.
    #[must_use]
    pub fn all(&self) -> &[&'static str] {
        &self.all
    }

    /// Runs kubectl and returns its standard output.
    ///
    /// # Errors
    /// When it exits with anything but 0; the message quotes what it said.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        kubectl_command(&self.env)?.args(args).output().await
    }

    /// Applies YAML (any number of documents); `namespace` is for objects that name none.
    ///
    /// # Errors
    /// When the API server refuses a document; the message quotes why.
    pub async fn apply_yaml(&self, namespace: &str, yaml: &str) -> Result<String> {
        let args = ["apply", "--namespace", namespace, "--filename", "-"];
        kubectl_command(&self.env)?.args(args).input(yaml).output().await
    }

    /// Makes objects from YAML as `kubectl get --output yaml` printed them, as `kubectl create` does.
    ///
    /// # Errors
    /// When one is there already or the API server refuses it; the message quotes why.
    pub async fn create_yaml(&self, yaml: &str) -> Result<String> {
        kubectl_command(&self.env)?.args(["create", "--filename", "-"]).input(yaml).output().await
    }

    /// Deletes what is named in YAML, and waits until it is gone; what does not exist is no error.
    ///
    /// # Errors
    /// As kubectl.
    pub async fn delete_yaml(&self, namespace: &str, yaml: &str) -> Result<String> {
        let args = ["delete", "--ignore-not-found", "--namespace", namespace, "--filename", "-"];
        kubectl_command(&self.env)?.args(args).input(yaml).output().await
    }

    /// Waits until a Deployment, StatefulSet or DaemonSet (`deployment/NAME`) is rolled out.
    ///
    /// # Errors
    /// When it is not within `limit`.
    pub async fn rolled_out(&self, namespace: &str, workload: &str, limit: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs().max(1));
        self.kubectl(&["rollout", "status", workload, "--namespace", namespace, &timeout]).await.map(drop)
    }
}

/// A client for the API server of our own cluster, and the way into its network.
async fn connect(env: &Env) -> Result<(Client, Arc<Reach>)> {
    let reach = Reach::open(&node_ns_path(env, 1)).context("there is no cluster: start one with `cargo e2e up`")?;
    let local = reach.forward(SocketAddr::from((node_ip(1), 6443))).await?;
    let kubeconfig = Kubeconfig::read_from(env.state.join("pki/admin.kubeconfig"))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.cluster_url = format!("https://{local}").parse()?;
    config.proxy_url = None;
    Ok((Client::try_from(config)?, reach))
}
