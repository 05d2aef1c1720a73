//! Runs the test application's client inside a pod, so that its traffic takes the way that an application's does.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::app::CONTAINER;
use super::shared::SOON;
use crate::context::{Context, Figures, pods};

/// A pod to call from.
pub struct Caller<'a> {
    cx: &'a Context,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Address of the pod.
    pub ip: IpAddr,
}

impl<'a> Caller<'a> {
    /// The first pod of the application `app`, once it is Ready.
    ///
    /// # Errors
    /// When there is none within a minute.
    pub async fn of(cx: &'a Context, namespace: &str, app: &str) -> Result<Self> {
        Self::at(cx, &cx.ready_pod(namespace, &format!("app={app}"), SOON).await?)
    }

    /// This pod.
    ///
    /// # Errors
    /// When it has no address yet.
    pub fn at(cx: &'a Context, pod: &Pod) -> Result<Self> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        Ok(Self { cx, namespace, pod: pods::name(pod), ip: pods::ip(pod)? })
    }

    /// Runs a client command and returns its report; `error` in it says that there was no answer.
    ///
    /// # Errors
    /// When the command could not be run at all.
    pub async fn run(&self, args: &[&str]) -> Result<Value> {
        let command: Vec<_> = ["/test-app"].iter().chain(args).copied().collect();
        let ran = self.cx.exec_code(&self.namespace, &self.pod, CONTAINER, &command).await?;
        serde_json::from_str(ran.stdout.trim()).with_context(|| {
            format!("`{}` in {}/{} exited with {}: {}", args.join(" "), self.namespace, self.pod, ran.code, ran.stderr)
        })
    }

    /// As [`Self::run`]; no answer is an error too.
    ///
    /// # Errors
    /// As [`Self::run`], and what `error` says.
    pub async fn call(&self, args: &[&str]) -> Result<Value> {
        let report = self.run(args).await?;
        match report["error"].as_str() {
            Some(error) => bail!("`{}` from {}/{}: {error}", args.join(" "), self.namespace, self.pod),
            None => Ok(report),
        }
    }

    /// One GET whose status must be 200; returns the report.
    ///
    /// # Errors
    /// When there is no answer or another status.
    pub async fn get(&self, url: &str) -> Result<Value> {
        let report = self.call(&["get", url]).await?;
        ensure!(report["status"] == 200, "{url} from {}/{} answered {report}", self.namespace, self.pod);
        Ok(report)
    }

    /// One GET of a path that the server echoes; returns what the server saw.
    ///
    /// # Errors
    /// When there is no answer or another status than 200.
    pub async fn echo(&self, url: &str) -> Result<Value> {
        echoed(&self.get(url).await?)
    }

    /// Starts load that goes on by itself.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start_load(&self, args: &[&str]) -> Result<()> {
        let command: Vec<_> = ["ctl", "start", "--seconds", "3600"].iter().chain(args).copied().collect();
        self.call(&command).await.map(drop)
    }

    /// Starts load that goes on by itself, and waits until a request was answered and `streams` streams are up.
    ///
    /// # Errors
    /// When it does not get under way.
    pub async fn steady_load(&self, args: &[&str], streams: u64) -> Result<()> {
        self.start_load(args).await?;
        self.cx
            .eventually(SOON, "the load does not get under way", || async {
                let load = self.load().await?;
                let Load { succeeded, streams_held, errors, .. } = &load;
                ensure!(*succeeded > 0, "no request was answered: {errors}");
                ensure!(*streams_held == streams, "{streams_held} streams of {streams} are up: {errors}");
                Ok(())
            })
            .await
    }

    /// The report of the load so far.
    ///
    /// # Errors
    /// When none was started.
    pub async fn load(&self) -> Result<Load> {
        Load::of(self.call(&["ctl", "report"]).await?)
    }

    /// Stops the load; its report, when everything that was sent has been answered or given up.
    ///
    /// # Errors
    /// When none was started.
    pub async fn stop_load(&self) -> Result<Load> {
        Load::of(self.call(&["ctl", "stop"]).await?)
    }
}

/// What the server saw, from the report of a GET or POST that it echoed.
///
/// # Errors
/// When the body is no echo.
pub fn echoed(report: &Value) -> Result<Value> {
    let body = report["body"].as_str().unwrap_or_default();
    serde_json::from_str(body).with_context(|| format!("no echo in {report}"))
}

/// What became of a load.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Load {
    /// Requests that were sent.
    pub sent: u64,
    /// Those answered well.
    pub succeeded: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those on a connection of their own.
    pub fresh_connections: u64,
    /// Long-lived streams and connections that came up.
    pub streams_held: u64,
    /// Those of them that broke, stalled or lost an event.
    pub streams_lost: u64,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// Failures by kind.
    pub errors: Value,
}

impl Load {
    fn of(report: Value) -> Result<Self> {
        serde_json::from_value(report).context("no load was running")
    }

    /// Fails unless every request that was sent has been answered or given up.
    ///
    /// # Errors
    /// Says how many hang.
    pub fn settled(&self) -> Result<()> {
        let (sent, told) = (self.sent, self.succeeded + self.failed);
        ensure!(sent == told, "{sent} were sent, and only {told} have succeeded or failed: the others hang");
        Ok(())
    }

    /// Fails unless requests were sent, none failed and no stream was lost.
    ///
    /// # Errors
    /// Lists the kinds of failure.
    pub fn flawless(&self, streams: u64) -> Result<()> {
        ensure!(self.sent > 0 && self.succeeded > 0, "no load was made: {self:?}");
        let Self { sent, failed, streams_held, streams_lost, errors, .. } = self;
        ensure!(*failed == 0 && *streams_lost == 0, "{failed} of {sent} failed, {streams_lost} streams lost: {errors}");
        self.settled()?;
        ensure!(*streams_held == streams, "{streams_held} streams held instead of {streams}: {errors}");
        Ok(())
    }

    /// Adds another client's load; latencies are those of the slower one.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.sent += other.sent;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.fresh_connections += other.fresh_connections;
        self.streams_held += other.streams_held;
        self.streams_lost += other.streams_lost;
        self.p50_ms = self.p50_ms.max(other.p50_ms);
        self.p99_ms = self.p99_ms.max(other.p99_ms);
        for (kind, count) in other.errors.as_object().into_iter().flatten() {
            let so_far = self.errors[kind.as_str()].as_u64().unwrap_or(0);
            self.errors[kind.as_str()] = (so_far + count.as_u64().unwrap_or(0)).into();
        }
        self
    }

    /// Puts it into a test's figures.
    #[must_use]
    pub fn figures(&self, figures: Figures) -> Figures {
        figures
            .with("sent", self.sent)
            .with("failed", self.failed)
            .with("fresh_connections", self.fresh_connections)
            .with("streams_held", self.streams_held)
            .with("streams_lost", self.streams_lost)
            .with("p50_ms", (self.p50_ms * 100.0).round() / 100.0)
            .with("p99_ms", (self.p99_ms * 100.0).round() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_hangs_is_not_flawless() {
        let load = json!({
            "sent": 10, "succeeded": 9, "failed": 0, "fresh_connections": 0, "streams_held": 0, "streams_lost": 0,
            "p50_ms": 1.0, "p99_ms": 1.0, "errors": {},
        });
        let mut load: Load = serde_json::from_value(load).unwrap();
        assert!(load.flawless(0).unwrap_err().to_string().contains("hang"));
        load.succeeded = 10;
        load.flawless(0).unwrap();
        assert!(load.flawless(1).is_err());
    }

    #[test]
    fn loads_add_up() {
        let load = |failed: u64, p99: f64, errors: Value| Load {
            sent: 10,
            succeeded: 10 - failed,
            failed,
            fresh_connections: 5,
            streams_held: 2,
            streams_lost: 1,
            p50_ms: 1.0,
            p99_ms: p99,
            errors,
        };
        let both = load(1, 3.0, json!({ "timeout": 1 })).and(&load(3, 2.0, json!({ "timeout": 2, "connect": 1 })));
        assert_eq!((both.sent, both.failed, both.streams_held, both.streams_lost), (20, 4, 4, 2));
        assert_eq!(both.errors, json!({ "timeout": 3, "connect": 1 }));
        assert!((both.p99_ms - 3.0).abs() < f64::EPSILON);
    }
}
