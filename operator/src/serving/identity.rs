//! The CSR service: who calls ([`authenticate`]: TokenReview → caller), whether it may have an identity ([`check`]), then the CA signs.
//! Nothing is written anywhere, so a refusal leaves nothing behind.

pub mod authenticate;
pub mod check;
pub mod limit;

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
use tonic::{Code, Request, Response, Status};

use crate::{
    ca::{SignError, sign::MAX_CSR_BYTES, store},
    runtime::context::Ctx,
    serving::control::{measure::Measures, server::Peer},
    telemetry::MeshLabel,
};
use authenticate::Reviews;
use limit::Limits;

/// Why nothing was signed. No message repeats the token or anything of it.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The request is malformed.
    #[error("{0}")]
    Request(String),
    /// Too many requests.
    #[error("{0}")]
    Limited(&'static str),
    /// The token proves nobody.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller is known, and may not have what it asks for.
    #[error("{0}")]
    Denied(String),
    /// Not the caller's fault.
    #[error("{0}")]
    Unavailable(String),
}

impl Refused {
    fn code(&self) -> Code {
        match self {
            Self::Request(_) => Code::InvalidArgument,
            Self::Limited(_) => Code::ResourceExhausted,
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Denied(_) => Code::PermissionDenied,
            Self::Unavailable(_) => Code::Unavailable,
        }
    }

    /// Metric label.
    fn reason(&self) -> &'static str {
        match self {
            Self::Request(_) => "malformed",
            Self::Limited(_) => "limited",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Denied(_) => "denied",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

impl From<SignError> for Refused {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Names { .. } => Self::Denied(error.to_string()),
            SignError::IssuerExpired | SignError::NoIssuer | SignError::Crypto(_) => {
                Self::Unavailable(error.to_string())
            }
            SignError::TooLarge(_) | SignError::Malformed(_) | SignError::Signature | SignError::KeyType => {
                Self::Request(error.to_string())
            }
        }
    }
}

/// The identity service.
pub struct IdentityService {
    ctx: Arc<Ctx>,
    measures: Measures,
    limits: Limits,
    reviews: Reviews,
    secrets: Api<Secret>,
}

impl IdentityService {
    /// Signs with the CAs of `ctx`.
    #[must_use]
    pub fn new(ctx: Arc<Ctx>, measures: Measures) -> Self {
        let reviews = Reviews::new(ctx.client.clone());
        Self { secrets: store::api(&ctx), ctx, measures, limits: Limits::default(), reviews }
    }

    async fn signed(&self, peer: &Peer, request: SignRequest) -> Result<SignResponse, Refused> {
        if !self.limits.allows(peer.ip, Instant::now()) {
            return Err(Refused::Limited("too many signing requests from this address: try again in a few seconds"));
        }
        if request.csr_der.len() > MAX_CSR_BYTES {
            return Err(SignError::TooLarge(request.csr_der.len()).into());
        }
        let caller = self.reviews.authenticate(&request.token).await?;
        check::may_join(&self.ctx, &caller, &peer.mesh).await?;
        // The leader lets an issuing CA go when nobody has a leaf of it: none may be signed with a state that is no longer in force.
        self.ctx.authorities.confirm(&self.secrets).await.map_err(|error| {
            tracing::warn!(%error, "the CA's state cannot be read");
            Refused::Unavailable("the CA's state cannot be read from the API server: try again".into())
        })?;
        let ca = self.ctx.authorities.mesh(&peer.mesh).ok_or_else(|| {
            Refused::Unavailable(format!("Mesh {} has no certificate authority yet: see its status", peer.mesh))
        })?;
        let id = SpiffeId::new(&ca.trust_domain, &caller.namespace, &caller.service_account)
            .map_err(|error| Refused::Denied(error.to_string()))?;
        let now = SystemTime::now();
        let leaf = ca.sign_leaf(&request.csr_der, &id, now)?;
        let now_ms = milliseconds(now);
        let skew_ms = request.client_time_ms.saturating_sub(now_ms);
        self.measures.skew_seconds.observe(skew_ms.unsigned_abs() as f64 / 1000.0);
        let pod = caller.pod.clone();
        self.ctx.evidence.signed(&peer.mesh, &caller.uid, pod, skew_ms);
        self.ctx.metrics.ca_leaves_signed.get_or_create(&MeshLabel { mesh: peer.mesh.clone() }).inc();
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
                Measures::count(&self.measures.signs, "signed");
                Ok(Response::new(response))
            }
            Err(refused) => {
                Measures::count(&self.measures.signs, refused.reason());
                tracing::info!(peer = %peer.ip, mesh = peer.mesh, reason = refused.reason(), why = %refused, "no leaf is signed");
                Err(Status::new(refused.code(), refused.to_string()))
            }
        }
    }
}
