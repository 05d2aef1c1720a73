//! The gRPC service: who opens a stream is checked, and gets one.

use std::sync::Arc;

use bowline_proxy::contract::{
    proto::{ControlMessage, Hello, ProxyMessage, control_server::Control},
    spiffe::SpiffeId,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    metrics::ControlMetrics,
    pending_hellos::PendingHellos,
    sessions::Sessions,
    stream::{Stream, StreamParts, ended, short},
    subscriptions::{Subscriptions, limits::TooManySubscriptions},
};
use crate::{
    cluster::{
        lookup::PodLookup,
        namespaced_name::NamespacedName,
        pod::{injected_mesh, service_account},
    },
    runtime::shutdown::Shutdown,
    serving::{
        peer::Peer,
        reports::{ProxyKey, Reports},
    },
};

/// The control service.
pub struct ControlService {
    subscriptions: Subscriptions,
    pods: PodLookup,
    reports: Reports,
    metrics: ControlMetrics,
    shutdown: Shutdown,
    sessions: Sessions,
    hellos: PendingHellos,
}

impl ControlService {
    /// Serves what `subscriptions` know to proxies in `pods`; what they report is kept in `reports`.
    #[must_use]
    pub fn new(
        subscriptions: Subscriptions,
        pods: PodLookup,
        reports: Reports,
        metrics: ControlMetrics,
        shutdown: Shutdown,
    ) -> Self {
        let (sessions, hellos) = (Sessions::default(), PendingHellos::default());
        Self { subscriptions, pods, reports, metrics, shutdown, sessions, hellos }
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
        let hello = self.hellos.receive(&mut inbound).await.inspect_err(|_| {
            self.metrics.stream_ended("no-hello");
        })?;
        self.check(&peer, identity, &hello).await.inspect_err(|status| {
            tracing::info!(peer = %peer.ip, identity = %identity, reason = status.message(), "a control stream is refused");
        })?;
        let (tx, rx) = mpsc::channel(1);
        let stream = self.open(&peer, hello).map_err(|error| {
            self.metrics.stream_ended(ended::reason(error));
            ended::too_many(error)
        })?;
        tokio::spawn(stream.run(inbound, tx));
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

impl ControlService {
    fn open(&self, peer: &Peer, hello: Hello) -> Result<Stream, TooManySubscriptions> {
        let key = ProxyKey { uid: hello.pod_uid.clone(), slot: hello.slot.clone() };
        let parts = StreamParts {
            subscription: self.subscriptions.subscribe(&peer.mesh),
            session: self.sessions.begin(key.clone()),
            in_use: peer.permit.in_use(),
            reports: self.reports.clone(),
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
        };
        Stream::open(&peer.mesh, key, hello, parts)
    }

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
        let found = self.pods.get(&name.namespace, &name.name, &hello.pod_uid).await.map_err(|error| {
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
