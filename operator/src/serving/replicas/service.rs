//! The gRPC service by which replicas ask this one.

use std::sync::Arc;

use bowline_proxy::contract::proto::{ObserveRequest, ObserveResponse, replica_server::Replica};
use tonic::{Request, Response, Status};

use super::local::LocalReplica;
use crate::{ca::Authorities, runtime::config::control_identity, serving::peer::Peer};

/// The service.
pub struct ReplicaService {
    local: LocalReplica,
    authorities: Authorities,
    namespace: String,
}

impl ReplicaService {
    /// Answers with what `local` knows to replicas in the operator's `namespace`, which prove themselves with leaves of `authorities`.
    #[must_use]
    pub fn new(local: LocalReplica, authorities: Authorities, namespace: String) -> Self {
        Self { local, authorities, namespace }
    }
}

#[tonic::async_trait]
impl Replica for ReplicaService {
    async fn observe(&self, request: Request<ObserveRequest>) -> Result<Response<ObserveResponse>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>().cloned().ok_or_else(|| Status::internal("no connection"))?;
        let ca = self.authorities.mesh(&peer.mesh);
        let expected = ca.map(|ca| control_identity(&self.namespace, &ca.trust_domain));
        if expected.is_none() || peer.identity.as_ref().map(ToString::to_string) != expected {
            return Err(Status::permission_denied("only replicas of the operator may ask this"));
        }
        self.local
            .observe(&peer.mesh)
            .map(Response::new)
            .ok_or_else(|| Status::unavailable(format!("Mesh {} is not served here yet", peer.mesh)))
    }
}
