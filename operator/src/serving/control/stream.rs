//! The control stream of one proxy: subscriptions and reports come in, changed resources and heartbeats go out.

mod delta;
pub(super) mod ended;

use std::time::{Duration, SystemTime};

use bowline_proxy::contract::proto::{Ack, ControlMessage, Hello, ProxyMessage, control_message, proxy_message::Kind};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tonic::{Status, Streaming};

use self::{delta::DeltaState, ended::Ended};
use super::{
    key::type_name,
    metrics::{ControlMetrics, TypeLabel},
    sessions::Session,
    subscriptions::{Subscription, limits::TooManySubscriptions},
};
use crate::{
    cluster::namespaced_name::NamespacedName,
    runtime::{listener::InUse, shutdown::Shutdown},
    serving::reports::{ProxyKey, ProxyState, Reports},
    telemetry::MeshLabel,
};

/// Pause between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a proxy may take nothing of what waits for it.
const SLOW: Duration = Duration::from_secs(30);
/// Streams end after this time and up to half of it more, so that proxies spread over replicas and prove themselves again.
const AGE: Duration = Duration::from_secs(30 * 60);
/// Longest text of a proxy that is logged or kept, in bytes.
const MAX_TEXT: usize = 256;

/// What streams send.
pub(super) type Sender = mpsc::Sender<Result<ControlMessage, Status>>;

/// The beginning of a text that a peer sent.
pub(super) fn short(text: &str) -> &str {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MAX_TEXT).last();
    &text[..end.unwrap_or(0)]
}

/// What a stream is given.
pub(super) struct StreamParts {
    pub(super) subscription: Subscription,
    pub(super) session: Session,
    pub(super) in_use: InUse,
    pub(super) reports: Reports,
    pub(super) metrics: ControlMetrics,
    pub(super) shutdown: Shutdown,
}

/// The stream of one proxy.
pub(super) struct Stream {
    pod: NamespacedName,
    mesh: String,
    key: ProxyKey,
    id: u64,
    delta: DeltaState,
    session: Session,
    _in_use: InUse,
    reports: Reports,
    metrics: ControlMetrics,
    shutdown: Shutdown,
}

impl Stream {
    /// Of a proxy of `mesh` that was found to be what its Hello says.
    pub(super) fn open(
        mesh: &str,
        key: ProxyKey,
        hello: Hello,
        parts: StreamParts,
    ) -> Result<Self, TooManySubscriptions> {
        let StreamParts { subscription, session, in_use, reports, metrics, shutdown } = parts;
        let pod = NamespacedName::new(hello.pod_namespace.as_str(), hello.pod_name.as_str());
        let mut stream = Self {
            mesh: mesh.to_owned(),
            key,
            id: subscription.id(),
            delta: DeltaState::new(pod.clone(), subscription, metrics.push_seconds.clone()),
            pod,
            session,
            _in_use: in_use,
            reports,
            metrics,
            shutdown,
        };
        stream.delta.start(hello.known)?;
        let state = ProxyState {
            pod: stream.pod.clone(),
            mesh: mesh.to_owned(),
            version: short(&hello.proxy_version).to_owned(),
            report: None,
            refused: 0,
            seen: SystemTime::now(),
        };
        stream.reports.opened(stream.key.clone(), stream.id, state);
        stream.connected().inc();
        Ok(stream)
    }

    /// Runs it to its end.
    pub(super) async fn run(mut self, inbound: Streaming<ProxyMessage>, tx: Sender) {
        let ended = self.follow(inbound, &tx).await;
        let (reason, status) = ended.into_status();
        tracing::debug!(pod = %self.pod, slot = self.key.slot, reason, "a control stream ends");
        self.metrics.stream_ended(reason);
        if let Some(status) = status {
            // Whoever takes nothing gets no reason either.
            let _ = tx.try_send(Err(status));
        }
    }

    async fn follow(&mut self, mut inbound: Streaming<ProxyMessage>, tx: &Sender) -> Ended {
        let shutdown = self.shutdown.clone();
        let mut ends = std::pin::pin!(shutdown.my_turn());
        let age = AGE.mul_f64(1.0 + rand::random::<f64>() / 2.0);
        let mut old = std::pin::pin!(tokio::time::sleep(age));
        let mut beat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut beat_due, mut waiting_since) = (false, None);
        loop {
            if self.delta.subscription.is_evicted() {
                return Ended::TooMany(TooManySubscriptions::OfAll);
            }
            let due = beat_due || self.delta.subscription.has_more();
            // Set while something waits for the proxy to take it.
            waiting_since = due.then(|| waiting_since.unwrap_or_else(Instant::now));
            let too_slow = waiting_since.map(|since: Instant| since + SLOW);
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => if let Err(ended) = self.receive(message) { return ended },
                    Ok(None) => return Ended::Closed,
                    Err(_) => return Ended::Broken,
                },
                permit = tx.reserve(), if due => {
                    let Ok(permit) = permit else { return Ended::Broken };
                    waiting_since = None;
                    match self.delta.update() {
                        Ok(Some(update)) => permit.send(Ok(message(control_message::Kind::Update(update)))),
                        Ok(None) if beat_due => {
                            beat_due = false;
                            permit.send(Ok(message(control_message::Kind::Heartbeat(self.delta.heartbeat()))));
                        }
                        Ok(None) => {}
                        Err(error) => return Ended::TooMany(error),
                    }
                }
                () = self.delta.subscription.changed() => {}
                _ = beat.tick() => beat_due = true,
                () = until(too_slow) => return Ended::Slow,
                () = self.session.replaced() => return Ended::Replaced,
                () = old.as_mut() => return Ended::Old,
                () = ends.as_mut() => return Ended::Shutdown,
            }
        }
    }

    /// Takes a message of the proxy.
    fn receive(&mut self, message: ProxyMessage) -> Result<(), Ended> {
        match message.kind {
            Some(Kind::Subscribe(subscribe)) => {
                self.delta.unsubscribe(&subscribe.remove).map_err(Ended::TooMany)?;
                self.delta.subscribe(&subscribe.add).map_err(Ended::TooMany)?;
            }
            Some(Kind::Ack(ack)) => self.acknowledged(&ack),
            Some(Kind::Report(report)) if report.issuer_sha256.len() <= 32 => {
                self.report(|state| state.report = Some(report));
            }
            Some(Kind::Hello(_)) => return Err(Ended::Confused("a second Hello")),
            Some(Kind::Report(_)) => return Err(Ended::Confused("a Report whose issuer_sha256 is no SHA-256")),
            // A message of a newer proxy.
            None => {}
        }
        Ok(())
    }

    fn acknowledged(&self, ack: &Ack) {
        for rejection in &ack.rejected {
            let Some(resource) = &rejection.resource else { continue };
            let r#type = type_name(resource.r#type());
            self.metrics.nacks.get_or_create(&TypeLabel { r#type }).inc();
            tracing::error!(
                pod = %self.pod, r#type, key = short(&resource.key), reason = short(&rejection.reason),
                "a proxy refused a resource and keeps the last good one"
            );
        }
        let (accepted, rejected) = (!ack.accepted.is_empty(), u32::try_from(ack.rejected.len()).unwrap_or(u32::MAX));
        self.report(|state| {
            state.refused = if accepted && rejected == 0 { 0 } else { state.refused.saturating_add(rejected) };
        });
    }

    fn report(&self, note: impl FnOnce(&mut ProxyState)) {
        self.reports.heard(&self.key, self.id, note);
    }

    fn connected(&self) -> prometheus_client::metrics::gauge::Gauge {
        self.metrics.connected.get_or_create_owned(&MeshLabel { mesh: self.mesh.clone() })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connected().dec();
        self.reports.closed(&self.key, self.id);
    }
}

fn message(kind: control_message::Kind) -> ControlMessage {
    ControlMessage { kind: Some(kind) }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
