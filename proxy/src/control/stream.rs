//! The control stream: [`ledger`] says which versions are held, [`apply_update`](self::update) loads what arrives, and this
//! file keeps a stream open to whichever replica of the control plane answers.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::state::State;
use crate::{
    backoff::Backoff,
    contract::{
        bootstrap::VERSION,
        proto::{
            Ack, ControlMessage, Hello, ProxyMessage, Report, Subscribe, control_client::ControlClient,
            control_message::Kind as Control, proxy_message::Kind as Proxy,
        },
    },
    identity::{
        client::newest,
        clock,
        dial::{self, DialError},
        leaf::Leaf,
        mount::{MountError, Mounts},
        store::Store,
        tls,
    },
    telemetry::health::Health,
};

pub mod ledger;
mod update;

use ledger::{Ledger, Verdict};

/// Silence after which a stream counts as dead: three heartbeats.
pub const SILENCE: Duration = Duration::from_secs(45);
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_secs(15);
/// A stream that lived this long ended for a new reason: the waits start afresh.
const SETTLED: Duration = Duration::from_secs(5);
/// How long the control plane may take to accept a stream or a message.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(10);
/// Messages on their way out.
const QUEUE: usize = 16;
/// Largest message, in bytes: several resources of the largest size.
const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// Keys in one message.
const KEYS_PER_MESSAGE: usize = 1024;

/// Why a stream ended or never began.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// See [`MountError`].
    #[error(transparent)]
    Mount(#[from] MountError),
    /// See [`DialError`].
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Refused or broken.
    #[error("the control stream failed: {code:?}: {message}")]
    Status {
        /// gRPC status.
        code: tonic::Code,
        /// Its words and causes.
        message: String,
    },
    /// The control plane ended it, to be relieved or restarted.
    #[error("the control plane ended the stream")]
    Ended,
    /// Nothing was heard for [`SILENCE`].
    #[error("the control plane was silent for {SILENCE:?}")]
    Silent,
    /// A message was not taken in time.
    #[error("the control plane took no message for {ACCEPT_DEADLINE:?}")]
    Stuck,
    /// A root was dropped on which the connection depended.
    #[error("the trust bundle no longer covers {0}: it is connected anew")]
    Distrusted(&'static str),
    /// Digests differ: something was lost.
    #[error("the control plane's digest of what it sent differs from what arrived: everything is compared anew")]
    Diverged,
}

impl From<tonic::Status> for StreamError {
    fn from(status: tonic::Status) -> Self {
        Self::Status { code: status.code(), message: dial::causes(&status) }
    }
}

/// Who opens the stream.
#[derive(Debug, Clone)]
pub struct Who {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub uid: String,
    /// `a` or `b`.
    pub slot: String,
}

/// What the stream reads and fills.
#[derive(Debug, Clone)]
pub struct Client {
    /// Who we are.
    pub who: Who,
    /// Where the control plane's address and the bundle are mounted.
    pub mounts: Mounts,
    /// Leaf and bundle.
    pub store: Arc<Store>,
    /// Destinations and policy.
    pub state: Arc<State>,
    /// Counts and the last error.
    pub health: Arc<Health>,
}

/// Keeps a stream open; never returns. Begins as soon as there is a leaf.
pub async fn keep(client: Client) {
    let mut ledger = Ledger::default();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        let leaf = first_leaf(&client.store).await;
        let began = Instant::now();
        let ended = client.stream(&leaf, &mut ledger).await;
        client.state.set_connected(false);
        let error = match ended {
            Ok(never) => match never {},
            Err(e) => e,
        };
        if matches!(error, StreamError::Diverged | StreamError::Silent) {
            client.health.resyncs.fetch_add(1, Ordering::Relaxed);
        }
        if began.elapsed() >= SETTLED {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        tracing::warn!(error = %error, retry_in_ms = wait.as_millis() as u64, "no control stream; what is known stays in use");
        client.health.control.failed(error.to_string());
        // A new leaf or bundle may be just what was missing.
        let mut news = client.store.watch();
        news.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = news.changed() => {}
        }
    }
}

async fn first_leaf(store: &Store) -> Arc<Leaf> {
    let mut changes = store.watch();
    loop {
        if let Some(leaf) = store.leaf() {
            return leaf;
        }
        // The store outlives the stream, so there is always a sender.
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

type Sender = mpsc::Sender<ProxyMessage>;

impl Client {
    /// One stream, until it ends.
    async fn stream(&self, leaf: &Leaf, ledger: &mut Ledger) -> Result<std::convert::Infallible, StreamError> {
        let mut changes = self.store.watch();
        changes.mark_unchanged();
        let (mesh, mounted) = self.mounts.trust()?;
        let trusted = newest(&self.store, mounted);
        let (channel, server) = dial::connect(&mesh, &trusted, Some(leaf)).await?;
        let mut ends = Ends { server, leaf, made: UnixTime::now(), changes, leave_at: None };
        let mut grpc = ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);

        let (tx, rx) = mpsc::channel(QUEUE);
        let mut wants = self.state.changes();
        wants.mark_unchanged();
        let open = grpc.connect(ReceiverStream::new(rx));
        let greet = self.greet(&tx, ledger);
        let both = async { tokio::try_join!(async { open.await.map_err(StreamError::from) }, greet) };
        let (response, mut reported) =
            tokio::time::timeout(ACCEPT_DEADLINE, both).await.map_err(|_| StreamError::Stuck)??;
        self.state.set_connected(true);
        self.health.control.succeeded();
        tracing::info!(address = %mesh.control_address, "the control stream is open");
        self.follow(response.into_inner(), &tx, ledger, &mut wants, &mut ends, &mut reported).await
    }

    /// Says who we are, what we hold and what we want.
    async fn greet(&self, tx: &Sender, ledger: &mut Ledger) -> Result<Report, StreamError> {
        let (known, add) = ledger.restart(self.state.wanted());
        let hello = Hello {
            proxy_version: VERSION.into(),
            pod_namespace: self.who.namespace.clone(),
            pod_name: self.who.pod.clone(),
            pod_uid: self.who.uid.clone(),
            slot: self.who.slot.clone(),
            known,
        };
        send(tx, Proxy::Hello(hello)).await?;
        subscribe(tx, add, Vec::new()).await?;
        let report = self.report();
        send(tx, Proxy::Report(report.clone())).await?;
        Ok(report)
    }

    async fn follow(
        &self,
        mut stream: Streaming<ControlMessage>,
        tx: &Sender,
        ledger: &mut Ledger,
        wants: &mut watch::Receiver<u64>,
        ends: &mut Ends<'_>,
        reported: &mut Report,
    ) -> Result<std::convert::Infallible, StreamError> {
        let mut heard = Instant::now();
        let mut draining = self.health.draining();
        loop {
            let report = self.report();
            if report != *reported {
                send(tx, Proxy::Report(report.clone())).await?;
                *reported = report;
            }
            let leave_at = ends.leave_at;
            tokio::select! {
                message = stream.message() => {
                    heard = Instant::now();
                    match message?.ok_or(StreamError::Ended)?.kind {
                        Some(Control::Update(update)) => self.load(update, tx, ledger).await?,
                        Some(Control::Heartbeat(beat)) => match ledger.judge(&beat, Instant::now().into_std()) {
                            Verdict::Diverged => return Err(StreamError::Diverged),
                            Verdict::Agrees | Verdict::Wait => {
                                subscribe(tx, Vec::new(), ledger.unpark()).await?;
                            }
                        },
                        // A message of a newer control plane.
                        None => {}
                    }
                }
                () = tokio::time::sleep_until(heard + SILENCE) => return Err(StreamError::Silent),
                _ = wants.changed() => {
                    let changes = self.state.take_changes();
                    let (add, remove) = ledger.change(changes, Instant::now().into_std());
                    subscribe(tx, add, remove).await?;
                }
                judged = ends.changed(&self.store) => judged?,
                () = until(leave_at) => return Err(StreamError::Distrusted("the control plane's certificate")),
                _ = draining.changed() => {}
            }
        }
    }

    /// Applies an update and answers for each of its resources.
    async fn load(
        &self,
        update: crate::contract::proto::Update,
        tx: &Sender,
        ledger: &mut Ledger,
    ) -> Result<(), StreamError> {
        let ack = update::apply(update, ledger, &self.state, &self.store);
        self.health.rejected.fetch_add(ack.rejected.len() as u64, Ordering::Relaxed);
        if ack == Ack::default() {
            return Ok(());
        }
        send(tx, Proxy::Ack(ack)).await
    }

    fn report(&self) -> Report {
        let current = self.store.current();
        Report {
            bundle_sequence: current.as_ref().map_or(0, |c| c.bundle.sequence),
            issuer_sha256: current.as_ref().map(|c| c.issuer_sha256.to_vec()).unwrap_or_default(),
            leaf_not_after: current.as_ref().map_or(0, |c| c.not_after),
            // Only the slot that serves has a stream.
            serving: !self.health.is_draining(),
        }
    }
}

/// What both ends of a connection were taken for.
struct Ends<'a> {
    server: Vec<CertificateDer<'static>>,
    leaf: &'a Leaf,
    made: UnixTime,
    changes: watch::Receiver<u64>,
    /// When to connect anew because the server's root was dropped.
    leave_at: Option<Instant>,
}

impl Ends<'_> {
    /// Waits until leaf or bundle change; fails as [`Ends::judge`] does.
    async fn changed(&mut self, store: &Store) -> Result<(), StreamError> {
        // The store outlives the stream, so there is always a sender.
        let _ = self.changes.changed().await;
        self.judge(store)
    }

    /// Fails when the bundle in use covers one of them no longer, and another connection could be better. A server whose root an ordinary
    /// rotation dropped is left within the time over which leaves are renewed, because every proxy leaves it.
    fn judge(&mut self, store: &Store) -> Result<(), StreamError> {
        let (Some(bundle), Some(current)) = (store.bundle(), store.leaf()) else { return Ok(()) };
        let trusted = |chain: &[CertificateDer<'static>]| tls::still_trusted(chain, &bundle.roots, self.made);
        if !trusted(&self.server) {
            if !bundle.revoked.is_empty() || bundle.renew_within_seconds == 0 {
                return Err(StreamError::Distrusted("the control plane's certificate"));
            }
            let within = f64::from(bundle.renew_within_seconds);
            let drawn = || Instant::now() + Duration::from_secs_f64(within * rand::random::<f64>());
            self.leave_at.get_or_insert_with(drawn);
        }
        // Without a leaf that is trusted, this connection is the best there is.
        let other = current.chain != self.leaf.chain && current.verifies(&bundle, clock::unix_seconds());
        if other && !trusted(&self.leaf.chain) {
            return Err(StreamError::Distrusted("the leaf that was presented"));
        }
        Ok(())
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn subscribe(
    tx: &Sender,
    add: Vec<crate::contract::proto::ResourceKey>,
    remove: Vec<crate::contract::proto::ResourceKey>,
) -> Result<(), StreamError> {
    // Removals first: what is in both was dropped and is wanted again.
    for keys in remove.chunks(KEYS_PER_MESSAGE) {
        send(tx, Proxy::Subscribe(Subscribe { add: Vec::new(), remove: keys.to_vec() })).await?;
    }
    for keys in add.chunks(KEYS_PER_MESSAGE) {
        send(tx, Proxy::Subscribe(Subscribe { add: keys.to_vec(), remove: Vec::new() })).await?;
    }
    Ok(())
}

async fn send(tx: &Sender, kind: Proxy) -> Result<(), StreamError> {
    let sent = tx.send_timeout(ProxyMessage { kind: Some(kind) }, ACCEPT_DEADLINE).await;
    // A closed queue means that the stream has ended; its status says why, but is lost by now.
    sent.map_err(|e| match e {
        mpsc::error::SendTimeoutError::Timeout(_) => StreamError::Stuck,
        mpsc::error::SendTimeoutError::Closed(_) => StreamError::Ended,
    })
}
