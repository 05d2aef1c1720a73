//! Pods: finding them, waiting for them, running programs in them, reading their logs.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, ListParams, LogParams};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::connect::Context;

/// What a program in a container did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code.
    pub code: i32,
}

impl Context {
    /// Runs a program in a container, to its end; any exit code is a result.
    ///
    /// # Errors
    /// When it cannot be run, or has not ended within two minutes: stopping load may take more than one.
    pub async fn exec_code(&self, namespace: &str, pod: &str, container: &str, command: &[&str]) -> Result<Ran> {
        let line = || format!("exec in {namespace}/{pod} ({container}): {}", command.join(" "));
        let api = Api::<Pod>::namespaced(self.client(), namespace);
        let params = AttachParams::default().container(container).stdout(true).stderr(true);
        let run = async {
            let mut process = api.exec(pod, command.iter().copied(), &params).await?;
            let (stdout, stderr) = tokio::join!(read(process.stdout()), read(process.stderr()));
            let status = process.take_status().context("no status channel")?.await.context("no status")?;
            let code = match status.status.as_deref() {
                Some("Success") => 0,
                _ => exit_code(&status).with_context(|| status.message.unwrap_or_default())?,
            };
            anyhow::Ok(Ran { stdout: stdout?, stderr: stderr?, code })
        };
        tokio::time::timeout(Duration::from_secs(120), run).await.with_context(line)?.with_context(line)
    }

    /// Runs a program in a container and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be run or exits with anything but 0.
    pub async fn exec(&self, namespace: &str, pod: &str, container: &str, command: &[&str]) -> Result<String> {
        let ran = self.exec_code(namespace, pod, container, command).await?;
        let said = format!("{}{}", ran.stdout, ran.stderr);
        ensure!(
            ran.code == 0,
            "`{}` in {namespace}/{pod} exited with {}: {}",
            command.join(" "),
            ran.code,
            said.trim()
        );
        Ok(ran.stdout)
    }

    /// The log of a container so far.
    ///
    /// # Errors
    /// When there is no such container or it has not started.
    pub async fn logs(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        let params = LogParams { container: Some(container.into()), ..Default::default() };
        let api = Api::<Pod>::namespaced(self.client(), namespace);
        api.logs(pod, &params).await.with_context(|| format!("no log of {namespace}/{pod} ({container})"))
    }

    /// The pods that a label selector finds, without those that are being deleted.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let api = Api::<Pod>::namespaced(self.client(), namespace);
        let mut pods = api.list(&ListParams::default().labels(selector)).await?.items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// The first pod that a label selector finds, once it is Ready.
    ///
    /// # Errors
    /// When none is within `limit`; says which state the last one seen was in.
    pub async fn ready_pod(&self, namespace: &str, selector: &str, limit: Duration) -> Result<Pod> {
        let what = format!("no pod {selector} in {namespace} became ready");
        self.eventually(limit, &what, || async {
            let pods = self.pods(namespace, selector).await?;
            let states: Vec<_> = pods.iter().map(state).collect();
            match pods.into_iter().find(is_ready) {
                Some(pod) => Ok(pod),
                None => bail!("pods there: {}", if states.is_empty() { "none".into() } else { states.join("; ") }),
            }
        })
        .await
    }
}

/// A pod's name.
#[must_use]
pub fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// A pod's address.
///
/// # Errors
/// When it has none yet.
pub fn ip(pod: &Pod) -> Result<IpAddr> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    Ok(ip.with_context(|| format!("pod {} has no address yet", name(pod)))?.parse()?)
}

/// Whether a pod is Ready.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Restarts of each container, sidecars and init containers included.
#[must_use]
pub fn restarts(pod: &Pod) -> Vec<(String, i32)> {
    let statuses = pod.status.iter().flat_map(|s| [&s.init_container_statuses, &s.container_statuses]);
    statuses.flatten().flatten().map(|c| (c.name.clone(), c.restart_count)).collect()
}

/// A pod's state in a few words.
fn state(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
    let waiting = containers.filter_map(|c| Some(format!("{}: {}", c.name, c.state?.waiting?.reason?)));
    let waiting: Vec<_> = waiting.collect();
    format!("{} {} {}", name(pod), status.phase.unwrap_or_default(), waiting.join(", ")).trim().to_owned()
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> Result<String> {
    let mut bytes = vec![];
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn exit_code(status: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Status) -> Option<i32> {
    let causes = status.details.as_ref()?.causes.as_ref()?;
    causes.iter().find(|c| c.reason.as_deref() == Some("ExitCode"))?.message.as_ref()?.parse().ok()
}
