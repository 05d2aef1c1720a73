//! The control stream: messages of the control plane come in, [`State`] and identity [`Store`] are filled. This file keeps a stream open to
//! whichever replica answers; `versions` holds which version of each resource is in use, `update` puts what arrives into the table that
//! connections read.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::state::State;
use crate::{
    contract::{
        bootstrap::VERSION,
        proto::{
            Ack, ControlMessage, Hello, ProxyMessage, Report, Subscribe, control_client::ControlClient,
            control_message::Kind as Control, proxy_message::Kind as Proxy,
        },
    },
    identity::{
        backoff::Backoff,
        control_plane::{self, ConnectError},
        leaf::Leaf,
        mount::{MountError, Mounts},
        store::Store,
    },
    telemetry::health::{ControlHealth, ServingStatus},
};

mod resource_name;
mod trust;
mod update;
mod versions;

use trust::ConnectionTrust;
pub use trust::Distrusted;
use versions::{DigestCheck, Versions};

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
    /// See [`ConnectError`].
    #[error(transparent)]
    Connect(#[from] ConnectError),
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
    /// See [`Distrusted`].
    #[error(transparent)]
    Distrusted(#[from] Distrusted),
    /// Digests differ: something was lost.
    #[error("the control plane's digest of what it sent differs from what arrived: everything is compared anew")]
    Diverged,
}

impl From<tonic::Status> for StreamError {
    fn from(status: tonic::Status) -> Self {
        Self::Status { code: status.code(), message: control_plane::causes(&status) }
    }
}

/// Identifies this proxy to the control plane.
#[derive(Debug, Clone)]
pub struct ProxyId {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub uid: String,
    /// `a` or `b`.
    pub slot: String,
}

/// The client of the control stream: what it reads and fills.
#[derive(Debug, Clone)]
pub struct Client {
    /// Opens the stream.
    pub proxy: ProxyId,
    /// Where the control plane's address and the bundle are mounted.
    pub mounts: Mounts,
    /// Leaf and bundle.
    pub store: Arc<Store>,
    /// Destinations and policy.
    pub state: Arc<State>,
    /// Counts and the last error.
    pub health: Arc<ControlHealth>,
    /// Whether this slot drains, which is reported to the control plane.
    pub serving: Arc<ServingStatus>,
}

/// Keeps a stream open; never returns. Begins as soon as there is a leaf.
pub async fn keep(client: Client) {
    let mut versions = Versions::default();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        let leaf = first_leaf(&client.store).await;
        let began = Instant::now();
        let ended = client.stream(&leaf, &mut versions).await;
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
        client.health.stream.failed(error.to_string());
        // A new leaf or bundle may be just what was missing.
        let mut changes = client.store.watch();
        changes.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = changes.changed() => {}
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
    async fn stream(&self, leaf: &Leaf, versions: &mut Versions) -> Result<std::convert::Infallible, StreamError> {
        let mut changes = self.store.watch();
        changes.mark_unchanged();
        let (mesh, mounted) = self.mounts.trust()?;
        let trusted = self.store.offer_bundle(mounted);
        let (channel, server) = control_plane::connect(&mesh, &trusted, Some(leaf)).await?;
        let mut trust = ConnectionTrust::new(server, leaf, changes);
        let mut grpc = ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);

        let (tx, rx) = mpsc::channel(QUEUE);
        let mut wants = self.state.subscription_changes();
        wants.mark_unchanged();
        let open = grpc.connect(ReceiverStream::new(rx));
        let hello = self.send_hello(&tx, versions);
        let both = async { tokio::try_join!(async { open.await.map_err(StreamError::from) }, hello) };
        let (response, mut reported) =
            tokio::time::timeout(ACCEPT_DEADLINE, both).await.map_err(|_| StreamError::Stuck)??;
        self.state.set_connected(true);
        self.health.stream.succeeded();
        tracing::info!(address = %mesh.control_address, "the control stream is open");
        self.follow(response.into_inner(), &tx, versions, &mut wants, &mut trust, &mut reported).await
    }

    /// Says which proxy this is, what it holds and what it wants.
    async fn send_hello(&self, tx: &Sender, versions: &mut Versions) -> Result<Report, StreamError> {
        let (known, add) = versions.restart(self.state.wanted());
        let hello = Hello {
            proxy_version: VERSION.into(),
            pod_namespace: self.proxy.namespace.clone(),
            pod_name: self.proxy.pod.clone(),
            pod_uid: self.proxy.uid.clone(),
            slot: self.proxy.slot.clone(),
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
        versions: &mut Versions,
        wants: &mut watch::Receiver<u64>,
        trust: &mut ConnectionTrust<'_>,
        reported: &mut Report,
    ) -> Result<std::convert::Infallible, StreamError> {
        let mut heard = Instant::now();
        let mut draining = self.serving.draining();
        loop {
            let report = self.report();
            if report != *reported {
                send(tx, Proxy::Report(report.clone())).await?;
                *reported = report;
            }
            tokio::select! {
                message = stream.message() => {
                    heard = Instant::now();
                    match message?.ok_or(StreamError::Ended)?.kind {
                        Some(Control::Update(update)) => self.load(update, tx, versions).await?,
                        Some(Control::Heartbeat(beat)) => match versions.check_digests(&beat, Instant::now().into_std()) {
                            DigestCheck::Diverged => return Err(StreamError::Diverged),
                            DigestCheck::InSync | DigestCheck::Unsettled => {
                                subscribe(tx, Vec::new(), versions.unpark()).await?;
                            }
                        },
                        // A message of a newer control plane.
                        None => {}
                    }
                }
                () = tokio::time::sleep_until(heard + SILENCE) => return Err(StreamError::Silent),
                _ = wants.changed() => {
                    let changes = self.state.take_subscription_delta();
                    let (add, remove) = versions.change(changes, Instant::now().into_std());
                    subscribe(tx, add, remove).await?;
                }
                judged = trust.changed(&self.store) => judged?,
                _ = draining.changed() => {}
            }
        }
    }

    /// Applies an update and answers for each of its resources.
    async fn load(
        &self,
        update: crate::contract::proto::Update,
        tx: &Sender,
        versions: &mut Versions,
    ) -> Result<(), StreamError> {
        let ack = update::apply(update, versions, &self.state, &self.store);
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
            serving: !self.serving.is_draining(),
        }
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
