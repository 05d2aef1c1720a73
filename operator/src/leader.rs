//! Leader election over the Lease `bowline-operator`: observe → [`decide`] → act. What the leader does runs only while the Lease is
//! surely held: it is cancelled before the Lease could pass to another replica, and before it is given back on shutdown.

pub mod decide;

use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::coordination::v1::Lease,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use self::decide::{ObservedLease, Step};
use crate::{
    runtime::{
        config::OPERATOR_NAME,
        shutdown::{Shutdown, TaskResult},
    },
    telemetry::Metrics,
};

/// How long a Lease lasts without renewal.
pub const LEASE: Duration = Duration::from_secs(15);
/// How long the leader goes on without a renewal: below [`LEASE`] by what a request of its own may still take.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How often it is renewed, and how often the others look; less up to a quarter.
pub const RETRY: Duration = Duration::from_secs(2);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(5);

/// Runs `work` whenever and for as long as this replica leads, and says in `leads` and `metrics` whether it does; gives the Lease back on
/// shutdown.
///
/// # Errors
/// When `work` fails.
pub async fn run<F: Future<Output = TaskResult> + Send + 'static>(
    mut elector: Elector,
    leads: watch::Sender<bool>,
    metrics: Metrics,
    shutdown: Shutdown,
    work: impl Fn() -> F + Send,
) -> TaskResult {
    // Told from the start: where nobody leads, nobody else would say so.
    metrics.leading(false);
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            () = elector.acquire() => {}
        }
        tracing::info!("this replica leads");
        metrics.leading(true);
        leads.send_replace(true);
        let mut job = Job(tokio::spawn(work()));
        let ended = tokio::select! {
            () = shutdown.requested() => Some(Ok(())),
            () = elector.keep() => None,
            ended = &mut job.0 => Some(ended.unwrap_or_else(|panic| Err(panic.into()))),
        };
        job.stop().await;
        leads.send_replace(false);
        metrics.leading(false);
        if let Some(ended) = ended {
            elector.release().await;
            return ended;
        }
        tracing::warn!("this replica leads no longer");
    }
}

/// A task that ends with its owner.
struct Job(JoinHandle<TaskResult>);

impl Job {
    /// Cancels it, and returns when nothing of it runs any more.
    async fn stop(mut self) {
        self.0.abort();
        if !self.0.is_finished() {
            // Cancelled is what it should be.
            let _ = (&mut self.0).await;
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// This replica's side of the election.
pub struct Elector {
    leases: Api<Lease>,
    me: String,
    observed: Option<ObservedLease>,
    /// When the request was sent by which the Lease was last written as ours.
    renewed: Instant,
}

impl Elector {
    /// `me` must be unique among the replicas and keep its meaning when the process starts anew: the pod's name.
    #[must_use]
    pub fn new(client: Client, namespace: &str, me: &str) -> Self {
        Self { leases: Api::namespaced(client, namespace), me: me.into(), observed: None, renewed: Instant::now() }
    }

    /// Ends when this replica leads.
    pub async fn acquire(&mut self) {
        loop {
            match timeout(REQUEST, self.attempt()).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be read or written, it is tried again"),
                Err(_) => tracing::warn!("the API server did not answer about the Lease, it is tried again"),
            }
            sleep(jittered(RETRY)).await;
        }
    }

    /// Renews the Lease; ends when this replica leads no longer, at the latest [`DEADLINE`] after the last renewal.
    pub async fn keep(&mut self) {
        loop {
            let deadline = self.renewed + DEADLINE;
            sleep_until((Instant::now() + jittered(RETRY)).min(deadline)).await;
            match timeout_at(deadline.min(Instant::now() + REQUEST), self.attempt()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be renewed, it is tried again"),
                Err(_) => tracing::warn!("the API server did not answer about the Lease, it is tried again"),
            }
            if Instant::now() >= self.renewed + DEADLINE {
                return;
            }
        }
    }

    /// Gives the Lease back, if it is still ours; whether that succeeds changes only how fast another replica takes over.
    pub async fn release(&mut self) {
        match timeout(REQUEST, self.give_back()).await {
            Ok(Ok(())) => tracing::info!("the Lease was given back"),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be given back"),
            Err(_) => tracing::warn!("the Lease could not be given back in time"),
        }
    }

    async fn give_back(&mut self) -> kube::Result<()> {
        // A renewal may have been cancelled halfway, so what was seen last may be stale.
        self.read().await?;
        match &self.observed {
            Some(observed) if decide::decide(&self.me, Some(observed), Instant::now()) == Step::Renew => {
                let lease = decide::released(&observed.lease, now());
                self.leases.replace(OPERATOR_NAME, &PostParams::default(), &lease).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// One look and, where it is due, one write; whether this replica leads.
    async fn attempt(&mut self) -> kube::Result<bool> {
        // What we hold is written over at once: the resource version tells whether it was still ours.
        if !matches!(decide::decide(&self.me, self.observed.as_ref(), Instant::now()), Step::Renew) {
            self.read().await?;
        }
        let sent = Instant::now();
        let written = match (decide::decide(&self.me, self.observed.as_ref(), sent), &self.observed) {
            (Step::Wait(_), _) => return Ok(false),
            (Step::Renew | Step::Take, Some(observed)) => {
                let lease = decide::held(&observed.lease, &self.me, LEASE, now());
                self.leases.replace(OPERATOR_NAME, &PostParams::default(), &lease).await
            }
            (_, None) | (Step::Create, _) => {
                let metadata = ObjectMeta { name: Some(OPERATOR_NAME.into()), ..ObjectMeta::default() };
                let lease = decide::held(&Lease { metadata, spec: None }, &self.me, LEASE, now());
                self.leases.create(&PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.observed = Some(ObservedLease { lease, since: sent });
                self.renewed = sent;
                Ok(true)
            }
            // Somebody wrote in between, perhaps a write of ours whose answer was lost: read before anything else.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                self.read().await?;
                let ours = decide::decide(&self.me, self.observed.as_ref(), Instant::now()) == Step::Renew;
                Ok(ours && Instant::now() < self.renewed + DEADLINE)
            }
            Err(error) => Err(error),
        }
    }

    async fn read(&mut self) -> kube::Result<()> {
        let lease = self.leases.get_opt(OPERATOR_NAME).await?;
        self.observed = lease.map(|lease| decide::observe(self.observed.take(), lease, Instant::now()));
        Ok(())
    }
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

/// `of`, less up to a quarter, so that replicas do not move in step.
fn jittered(of: Duration) -> Duration {
    of.mul_f64(1.0 - rand::random::<f64>() / 4.0)
}

#[cfg(test)]
mod tests;
