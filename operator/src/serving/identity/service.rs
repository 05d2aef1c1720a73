//! The gRPC service: request → leaf.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bowline_proxy::contract::{
    proto::{SignRequest, SignResponse, identity_server::Identity},
    spiffe::SpiffeId,
};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tonic::{Request, Response, Status};

use super::{
    authenticate::TokenReviews, authorize::Authorization, metrics::IdentityMetrics, rate_limit::RateLimits,
    refused::Refused,
};
use crate::{
    ca::{Authorities, SignError, issuance::sign_error::MAX_CSR_BYTES},
    serving::{peer::Peer, reports::Reports},
    telemetry::MeshLabel,
};

/// The identity service.
pub struct IdentityService {
    /// Which pod may have an identity.
    pub authorization: Authorization,
    /// The CA of every Mesh, which signs.
    pub authorities: Authorities,
    /// Where their state is read anew before anything is signed with it.
    pub secrets: Api<Secret>,
    /// Is told the clocks of callers.
    pub reports: Reports,
    /// What is measured.
    pub metrics: IdentityMetrics,
    /// Requests per address.
    pub rates: RateLimits,
    /// Tells who holds a token.
    pub tokens: TokenReviews,
}

impl IdentityService {
    async fn signed(&self, peer: &Peer, request: SignRequest) -> Result<SignResponse, Refused> {
        if !self.rates.allows(peer.ip, Instant::now()) {
            return Err(Refused::Limited("too many signing requests from this address: try again in a few seconds"));
        }
        if request.csr_der.len() > MAX_CSR_BYTES {
            return Err(SignError::TooLarge(request.csr_der.len()).into());
        }
        let caller = self.tokens.authenticate(&request.token).await?;
        self.authorization.check(&caller, &peer.mesh).await?;
        // The leader lets an issuing CA go when nobody has a leaf of it: none may be signed with a state that is no longer in force.
        self.authorities.confirm(&self.secrets).await.map_err(|error| {
            tracing::warn!(%error, "the CA's state cannot be read");
            Refused::Unavailable("the CA's state cannot be read from the API server: try again".into())
        })?;
        let ca = self.authorities.mesh(&peer.mesh).ok_or_else(|| {
            Refused::Unavailable(format!("Mesh {} has no certificate authority yet: see its status", peer.mesh))
        })?;
        let id = SpiffeId::new(&ca.trust_domain, &caller.namespace, &caller.service_account)
            .map_err(|error| Refused::Denied(error.to_string()))?;
        let now = SystemTime::now();
        let leaf = ca.sign_leaf(&request.csr_der, &id, now)?;
        let now_ms = milliseconds(now);
        let skew_ms = request.client_time_ms.saturating_sub(now_ms);
        self.metrics.skew_seconds.observe(skew_ms.unsigned_abs() as f64 / 1000.0);
        let pod = caller.pod.clone();
        self.reports.signed(&peer.mesh, &caller.uid, pod, skew_ms);
        self.metrics.leaves_signed.get_or_create(&MeshLabel { mesh: peer.mesh.clone() }).inc();
        tracing::debug!(%id, pod = %caller.pod, skew_ms, "a leaf is signed");
        Ok(SignResponse { chain_der: leaf.chain_der, bundle: Some(ca.bundle.clone()), server_time_ms: now_ms })
    }
}

fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>().cloned().ok_or_else(|| Status::internal("no connection"))?;
        match self.signed(&peer, request.into_inner()).await {
            Ok(response) => {
                self.metrics.count("signed");
                Ok(Response::new(response))
            }
            Err(refused) => {
                self.metrics.count(refused.reason());
                tracing::info!(peer = %peer.ip, mesh = peer.mesh, reason = refused.reason(), why = %refused, "no leaf is signed");
                Err(Status::new(refused.code(), refused.to_string()))
            }
        }
    }
}
