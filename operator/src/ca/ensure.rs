//! Brings a Mesh's CA to where it should be: read → source → decide → issue → write, again from the start when somebody wrote in between.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::{
    authorities::Held,
    decide::{self, Known, Policy, Source, Write},
    issue::{self, IssueError},
    state::{CaState, StateError},
    store,
};
use crate::config::CA_SECRET;

/// How often a write is tried again at once after somebody else's.
const ATTEMPTS: usize = 4;

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// The state is gone, and only a backup or an order to start anew can help.
    #[error("Secret {CA_SECRET} has lost the CA's state ({0}) and no replica remembers it")]
    Lost(Damage),
    /// A key or certificate could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The API server refused.
    #[error("Secret {CA_SECRET}: {0}")]
    Api(#[from] kube::Error),
}

/// What is wrong with the Secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It has no entry for the Mesh.
    #[error("it has no entry for the Mesh")]
    Missing,
    /// The entry cannot be used.
    #[error("its entry cannot be used: {0}")]
    Bad(StateError),
    /// The entry is of another trust domain.
    #[error("its entry is of trust domain {0:?}")]
    TrustDomain(String),
}

/// A CA as it should be.
#[derive(Debug)]
pub struct Ensured {
    /// As the Secret holds it now.
    pub state: CaState,
    /// What was changed.
    pub writes: Vec<Write>,
    /// That it was put back, and why.
    pub restored: Option<Damage>,
}

/// What is known besides the Secret; see [`Known`].
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// See [`Known::memory`].
    pub memory: Option<&'a CaState>,
    /// See [`Known::published`].
    pub published: bool,
    /// See [`Known::accept_new_root`].
    pub accept_new_root: bool,
}

/// See the module.
///
/// # Errors
/// See [`EnsureError`].
pub async fn ensure(
    api: &Api<Secret>,
    policy: &Policy,
    evidence: Evidence<'_>,
    now: SystemTime,
) -> Result<Ensured, EnsureError> {
    let mut attempt = 1;
    loop {
        match ensure_once(api, policy, evidence, now).await {
            // Somebody wrote in between, perhaps a write of ours whose answer was lost.
            Err(EnsureError::Api(kube::Error::Api(s))) if s.code == 409 && attempt < ATTEMPTS => attempt += 1,
            ended => return ended,
        }
    }
}

async fn ensure_once(
    api: &Api<Secret>,
    policy: &Policy,
    evidence: Evidence<'_>,
    now: SystemTime,
) -> Result<Ensured, EnsureError> {
    let secret = api.get_opt(CA_SECRET).await?;
    let (held, in_secret) = store::held(secret.as_ref(), &policy.mesh);
    let Evidence { memory, published, accept_new_root } = evidence;
    let known = Known { secret: in_secret.as_ref(), memory, published, accept_new_root };
    let damage = || match (&held, &in_secret) {
        (Held::Bad(error), _) => Damage::Bad(error.clone()),
        (_, Some(state)) => Damage::TrustDomain(state.trust_domain.clone()),
        (_, None) => Damage::Missing,
    };
    let (base, restored) = match decide::source(known, &policy.trust_domain) {
        Source::Secret => (in_secret.as_ref(), None),
        Source::Memory => (memory, Some(damage())),
        Source::Fresh => (None, None),
        Source::Lost => return Err(EnsureError::Lost(damage())),
    };
    let writes = decide::decide(base, policy, now);
    let state = match base {
        Some(state) if writes.is_empty() => state.clone(),
        base => issue::apply(base, &writes, policy, now)?,
    };
    if !writes.is_empty() || restored.is_some() {
        store::write(api, secret, &policy.mesh, Some(&state)).await?;
    }
    Ok(Ensured { state, writes, restored })
}
