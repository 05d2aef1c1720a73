//! The control stream of one proxy: subscriptions in, changed resources and heartbeats out.

mod ended;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bowline_proxy::contract::{
    proto::{
        Ack, ControlMessage, Digest, Heartbeat, Hello, ProxyMessage, Resource, ResourceKey, ResourceType, Update,
        control_message, control_server::Control, proxy_message::Kind,
    },
    spiffe::SpiffeId,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::ended::Ended;
use super::{
    evidence::{ProxyKey, ProxyState},
    hellos::Hellos,
    index::Subject,
    latest::{Latest, Turn},
    measure::{Measures, TypeLabel},
    server::Peer,
    subscribers::{Hub, Key, Subscription, TooMany, type_name},
};
use crate::{
    cluster::{
        lookup,
        namespaced_name::NamespacedName,
        pod::{injected_mesh, service_account},
    },
    runtime::{context::Ctx, listener::InUse},
    telemetry::MeshLabel,
};

/// Pause between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a proxy may take nothing of what waits for it.
const SLOW: Duration = Duration::from_secs(30);
/// Streams end after this time and up to half of it more, so that proxies spread over replicas and prove themselves again.
const AGE: Duration = Duration::from_secs(30 * 60);
/// Size from which on an update is closed, in bytes.
const BATCH_BYTES: usize = 256 << 10;
/// Longest text of a proxy that is logged or kept, in bytes.
const MAX_TEXT: usize = 256;

/// What streams send.
type Sender = mpsc::Sender<Result<ControlMessage, Status>>;

/// The control service.
pub struct ControlService {
    ctx: Arc<Ctx>,
    hub: Hub,
    measures: Measures,
    latest: Latest,
    hellos: Hellos,
}

impl ControlService {
    /// Serves what `hub` knows.
    #[must_use]
    pub fn new(ctx: Arc<Ctx>, hub: Hub, measures: Measures) -> Self {
        Self { ctx, hub, measures, latest: Latest::default(), hellos: Hellos::default() }
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    type ConnectStream = ReceiverStream<Result<ControlMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>().cloned().ok_or_else(|| Status::internal("no connection"))?;
        let identity = peer.identity.as_ref().ok_or_else(|| {
            Status::unauthenticated("the control stream needs a client certificate with a SPIFFE ID of this mesh")
        })?;
        let mut inbound = request.into_inner();
        let hello = self.hellos.hear(&mut inbound).await.inspect_err(|_| {
            Measures::count(&self.measures.streams_ended, "no-hello");
        })?;
        self.check(&peer, identity, &hello).await.inspect_err(|status| {
            tracing::info!(peer = %peer.ip, identity = %identity, reason = status.message(), "a control stream is refused");
        })?;
        let (tx, rx) = mpsc::channel(1);
        let stream = Stream::open(self, &peer, hello).map_err(|error| {
            Measures::count(&self.measures.streams_ended, ended::reason(error));
            ended::too_many(error)
        })?;
        tokio::spawn(stream.run(inbound, tx));
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

impl ControlService {
    /// That the proxy is who it says: a live pod of this mesh with the service account that its certificate names.
    async fn check(&self, peer: &Peer, identity: &SpiffeId, hello: &Hello) -> Result<(), Status> {
        let denied = |why: String| Err(Status::permission_denied(why));
        if identity.namespace() != hello.pod_namespace {
            return denied(format!(
                "{identity} may not speak for a pod in namespace {:?}",
                short(&hello.pod_namespace)
            ));
        }
        let name = NamespacedName::new(short(&hello.pod_namespace), short(&hello.pod_name));
        let found = lookup::pod(&self.ctx, &name.namespace, &name.name, &hello.pod_uid).await.map_err(|error| {
            tracing::warn!(pod = %name, %error, "a pod cannot be read");
            Status::unavailable("the pod cannot be read from the API server: try again")
        })?;
        let Some(pod) = found else {
            return denied(format!("there is no pod {name} with UID {:?}", short(&hello.pod_uid)));
        };
        if service_account(&pod) != identity.service_account() {
            return denied(format!("pod {name} does not run as service account {}", identity.service_account()));
        }
        if injected_mesh(&pod) != Some(peer.mesh.as_str()) {
            return denied(format!("pod {name} carries no sidecar of Mesh {}", peer.mesh));
        }
        if !matches!(hello.slot.as_str(), "a" | "b") {
            return Err(Status::invalid_argument(format!("slot {:?} is neither a nor b", short(&hello.slot))));
        }
        Ok(())
    }
}

/// The beginning of a text that a peer sent.
fn short(text: &str) -> &str {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MAX_TEXT).last();
    &text[..end.unwrap_or(0)]
}

struct Stream {
    ctx: Arc<Ctx>,
    measures: Measures,
    pod: NamespacedName,
    mesh: String,
    key: ProxyKey,
    turn: Turn,
    _in_use: InUse,
    subscription: Subscription,
    /// Version of everything that is subscribed and was sent.
    sent: HashMap<Key, u64>,
    /// Services that addresses among these lead to.
    leads: HashMap<IpAddr, NamespacedName>,
}

impl Stream {
    fn open(service: &ControlService, peer: &Peer, hello: Hello) -> Result<Self, TooMany> {
        let mesh = peer.mesh.as_str();
        let pod = NamespacedName::new(hello.pod_namespace.as_str(), hello.pod_name.as_str());
        let key = ProxyKey { uid: hello.pod_uid, slot: hello.slot };
        let mut stream = Self {
            ctx: Arc::clone(&service.ctx),
            measures: service.measures.clone(),
            subscription: service.hub.join(mesh),
            mesh: mesh.to_owned(),
            pod,
            turn: service.latest.take(key.clone()),
            _in_use: peer.slot.in_use(),
            key,
            sent: HashMap::new(),
            leads: HashMap::new(),
        };
        let always = [Key::Bundle, Key::Subject(Subject::Inbound(stream.pod.clone()))];
        for key in always {
            stream.subscription.add(key)?;
        }
        for known in hello.known {
            if let Some(key) = Key::parse(known.r#type, &known.key, &stream.pod) {
                stream.subscription.add(key.clone())?;
                stream.sent.insert(key, known.version);
            }
        }
        let state = ProxyState {
            pod: stream.pod.clone(),
            mesh: mesh.to_owned(),
            version: short(&hello.proxy_version).to_owned(),
            report: None,
            refused: 0,
            seen: SystemTime::now(),
        };
        stream.ctx.evidence.opened(stream.key.clone(), stream.subscription.id(), state);
        stream.connected().inc();
        Ok(stream)
    }

    async fn run(mut self, inbound: Streaming<ProxyMessage>, tx: Sender) {
        let ended = self.follow(inbound, &tx).await;
        let (reason, status) = ended.into_status();
        tracing::debug!(pod = %self.pod, slot = self.key.slot, reason, "a control stream ends");
        Measures::count(&self.measures.streams_ended, reason);
        if let Some(status) = status {
            // Whoever takes nothing gets no reason either.
            let _ = tx.try_send(Err(status));
        }
    }

    async fn follow(&mut self, mut inbound: Streaming<ProxyMessage>, tx: &Sender) -> Ended {
        let shutdown = self.ctx.shutdown.clone();
        let mut ends = std::pin::pin!(shutdown.my_turn());
        let age = AGE.mul_f64(1.0 + rand::random::<f64>() / 2.0);
        let mut old = std::pin::pin!(tokio::time::sleep(age));
        let mut beat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut beat_due, mut waiting_since) = (false, None);
        loop {
            if self.subscription.made_room() {
                return Ended::TooMany(TooMany::OfAll);
            }
            let due = beat_due || self.subscription.has_more();
            // Set while something waits for the proxy to take it.
            waiting_since = due.then(|| waiting_since.unwrap_or_else(Instant::now));
            let too_slow = waiting_since.map(|since: Instant| since + SLOW);
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => if let Err(ended) = self.hear(message) { return ended },
                    Ok(None) => return Ended::Closed,
                    Err(_) => return Ended::Broken,
                },
                permit = tx.reserve(), if due => {
                    let Ok(permit) = permit else { return Ended::Broken };
                    waiting_since = None;
                    match self.update() {
                        Ok(Some(update)) => permit.send(Ok(message(control_message::Kind::Update(update)))),
                        Ok(None) if beat_due => {
                            beat_due = false;
                            permit.send(Ok(message(control_message::Kind::Heartbeat(self.heartbeat()))));
                        }
                        Ok(None) => {}
                        Err(error) => return Ended::TooMany(error),
                    }
                }
                () = self.subscription.changed() => {}
                _ = beat.tick() => beat_due = true,
                () = until(too_slow) => return Ended::Slow,
                () = self.turn.replaced() => return Ended::Replaced,
                () = old.as_mut() => return Ended::Old,
                () = ends.as_mut() => return Ended::Shutdown,
            }
        }
    }

    /// Takes a message of the proxy.
    fn hear(&mut self, message: ProxyMessage) -> Result<(), Ended> {
        match message.kind {
            Some(Kind::Subscribe(subscribe)) => {
                self.unsubscribe(&subscribe.remove)?;
                for key in subscribe.add.iter().filter_map(|k| Key::parse(k.r#type, &k.key, &self.pod)) {
                    self.subscription.add(key).map_err(Ended::TooMany)?;
                }
            }
            Some(Kind::Ack(ack)) => self.acknowledged(&ack),
            Some(Kind::Report(report)) if report.issuer_sha256.len() <= 32 => {
                self.evidence(|state| state.report = Some(report));
            }
            Some(Kind::Hello(_)) => return Err(Ended::Confused("a second Hello")),
            Some(Kind::Report(_)) => return Err(Ended::Confused("a Report whose issuer_sha256 is no SHA-256")),
            // A message of a newer proxy.
            None => {}
        }
        Ok(())
    }

    /// Drops what the proxy no longer wants. A Service that one of its addresses still leads to is sent again instead: the proxy dropped
    /// it before it learned of that address.
    fn unsubscribe(&mut self, keys: &[ResourceKey]) -> Result<(), Ended> {
        let mut services = Vec::new();
        for key in keys {
            let Some(key) = Key::parse(key.r#type, &key.key, &self.pod) else { continue };
            match key {
                Key::Subject(Subject::Address(ip)) => {
                    self.leads.remove(&ip);
                    self.drop_key(&key);
                }
                Key::Subject(Subject::Service(ref name)) => services.push((name.clone(), key)),
                // These two are always subscribed.
                Key::Bundle | Key::Subject(Subject::Inbound(_)) => {}
            }
        }
        let needed: HashSet<NamespacedName> =
            if services.is_empty() { HashSet::new() } else { self.leads.values().cloned().collect() };
        for (name, key) in services {
            if needed.contains(&name) {
                self.sent.remove(&key);
                self.subscription.add(key).map_err(Ended::TooMany)?;
            } else {
                self.drop_key(&key);
            }
        }
        Ok(())
    }

    fn drop_key(&mut self, key: &Key) {
        self.subscription.remove(key);
        self.sent.remove(key);
    }

    fn acknowledged(&self, ack: &Ack) {
        for rejection in &ack.rejected {
            let Some(resource) = &rejection.resource else { continue };
            let r#type = type_name(resource.r#type());
            self.measures.nacks.get_or_create(&TypeLabel { r#type }).inc();
            tracing::error!(
                pod = %self.pod, r#type, key = short(&resource.key), reason = short(&rejection.reason),
                "a proxy refused a resource and keeps the last good one"
            );
        }
        let (accepted, rejected) = (!ack.accepted.is_empty(), u32::try_from(ack.rejected.len()).unwrap_or(u32::MAX));
        self.evidence(|state| {
            state.refused = if accepted && rejected == 0 { 0 } else { state.refused.saturating_add(rejected) };
        });
    }

    /// What changed and is not there yet; `None`: nothing.
    fn update(&mut self) -> Result<Option<Update>, TooMany> {
        let mut resources = Vec::new();
        while resources.is_empty() {
            let taken = self.subscription.take(BATCH_BYTES)?;
            if taken.is_empty() {
                return Ok(None);
            }
            for changed in taken {
                let version = changed.compiled.version;
                if let Key::Subject(Subject::Address(ip)) = changed.key {
                    match changed.compiled.implies {
                        Some(service) => self.leads.insert(ip, service),
                        None => self.leads.remove(&ip),
                    };
                }
                if self.sent.insert(changed.key.clone(), version) == Some(version) {
                    continue;
                }
                self.measures.push_seconds.observe(changed.since.elapsed().as_secs_f64());
                resources.push(Resource {
                    r#type: changed.key.kind().into(),
                    key: changed.key.text(),
                    version,
                    body: changed.compiled.body,
                });
            }
        }
        Ok(Some(Update { resources }))
    }

    fn heartbeat(&self) -> Heartbeat {
        let kinds =
            [ResourceType::TrustBundle, ResourceType::InboundPolicy, ResourceType::Address, ResourceType::Service];
        let digest = |kind: ResourceType| {
            let of_kind = self.sent.iter().filter(|(key, _)| key.kind() == kind);
            let (count, xor) = of_kind.fold((0, 0), |(count, xor), (_, version)| (count + 1, xor ^ version));
            Digest { r#type: kind.into(), count, xor }
        };
        Heartbeat { digests: kinds.into_iter().map(digest).collect() }
    }

    fn evidence(&self, note: impl FnOnce(&mut ProxyState)) {
        self.ctx.evidence.heard(&self.key, self.subscription.id(), note);
    }

    fn connected(&self) -> prometheus_client::metrics::gauge::Gauge {
        self.measures.connected.get_or_create_owned(&MeshLabel { mesh: self.mesh.clone() })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connected().dec();
        self.ctx.evidence.closed(&self.key, self.subscription.id());
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
