//! The client of the identity service requests a leaf: one attempt, from the mounted files to a leaf that was checked.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tonic::Code;

use super::{
    csr::{self, CsrError},
    key::{Key, KeyError},
    leaf::{Leaf, LeafError},
    mount::{MountError, Mounts},
    store::Store,
};
use crate::{
    contract::{
        proto::{SignRequest, identity_client::IdentityClient},
        resource::Bundle,
        spiffe::{SpiffeError, SpiffeId},
        validate::{InvalidResource, trust_bundle},
    },
    identity::{
        clock,
        control_plane::{self, ConnectError},
    },
};

/// How long the identity service may take to answer.
pub const SIGN_DEADLINE: Duration = Duration::from_secs(10);
/// Largest answer, in bytes.
const MAX_RESPONSE_BYTES: usize = 1 << 20;
/// Difference of clocks from which on a warning is logged.
const SKEW_WARNING: Duration = Duration::from_secs(60);

/// Why there is no new leaf.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// See [`MountError`].
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The pod's own identity is no SPIFFE ID.
    #[error("this pod's identity cannot be formed: {0}")]
    Identity(#[from] SpiffeError),
    /// See [`KeyError`].
    #[error(transparent)]
    Key(#[from] KeyError),
    /// See [`CsrError`].
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// See [`ConnectError`].
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The identity service says no.
    #[error("the identity service refused to sign for {id}: {code:?}: {message}; {remedy}")]
    Refused {
        /// For whom.
        id: SpiffeId,
        /// gRPC status.
        code: Code,
        /// Its words.
        message: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The answer is no leaf of ours.
    #[error("the identity service's answer is of no use: {0}")]
    Leaf(#[from] LeafError),
    /// The answer's bundle is missing or malformed.
    #[error("the trust bundle in the identity service's answer is of no use: {0}")]
    Bundle(String),
}

impl From<InvalidResource> for ObtainError {
    fn from(e: InvalidResource) -> Self {
        Self::Bundle(e.to_string())
    }
}

/// Requests leaves for this pod's identity; knows where what it needs is mounted.
#[derive(Debug, Clone)]
pub struct CertificateClient {
    /// Mounted files.
    pub mounts: Mounts,
    /// Namespace of the pod.
    pub namespace: String,
    /// Service account of the pod.
    pub service_account: String,
}

impl CertificateClient {
    /// One attempt. Offers the mounted bundle to `store` on the way.
    ///
    /// # Errors
    /// See [`ObtainError`].
    pub async fn obtain(&self, store: &Store) -> Result<(Leaf, Bundle), ObtainError> {
        let (mesh, mounted) = self.mounts.trust()?;
        let id = SpiffeId::new(&mesh.trust_domain, &self.namespace, &self.service_account)?;
        let trusted = store.offer_bundle(mounted);
        let key = Key::generate()?;
        let csr_der = csr::request(&id, &key)?;
        let token = self.mounts.token()?;
        let (channel, _) = control_plane::connect(&mesh, &trusted, None).await?;
        let mut client = IdentityClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let mut request = tonic::Request::new(SignRequest {
            token: token.as_str().to_owned(),
            csr_der: csr_der.into(),
            client_time_ms: clock::unix_millis(),
        });
        request.set_timeout(SIGN_DEADLINE);
        let answer = client.sign(request).await.map_err(|s| refused(&id, &s))?.into_inner();
        warn_of_skew(answer.server_time_ms);
        let offered = answer.bundle.ok_or_else(|| ObtainError::Bundle("there is none".into()))?;
        let offered = trust_bundle(offered)?;
        let chain = answer.chain_der.into_iter().map(CertificateDer::from).collect();
        let leaf = Leaf::check(&id, key, chain, &offered, clock::unix_seconds())?;
        Ok((leaf, offered))
    }
}

fn refused(id: &SpiffeId, status: &tonic::Status) -> ObtainError {
    let remedy = match status.code() {
        Code::Unauthenticated => {
            "the kubelet renews the token by itself; check the node's clock and the pod's volume bowline-token"
        }
        Code::PermissionDenied => {
            "check that the pod still exists, that its namespace is in the mesh and its service account is right"
        }
        Code::InvalidArgument => {
            "proxy and operator disagree about requests: check that their versions are at most two minors apart"
        }
        _ => "it is tried again; check the operator's log if this persists",
    };
    ObtainError::Refused { id: id.clone(), code: status.code(), message: status.message().to_owned(), remedy }
}

fn warn_of_skew(server_ms: i64) {
    let skew = server_ms - clock::unix_millis();
    if skew.unsigned_abs() > SKEW_WARNING.as_millis() as u64 {
        tracing::warn!(
            skew_ms = skew,
            "this node's clock and the control plane's differ: synchronise them, or certificates are refused"
        );
    }
}
