//! Brings a Mesh's CA to where it should be: read → origin → evidence → decide → issue → write, again from the start when somebody wrote in
//! between.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::observe::Observer;
use crate::{
    ca::{
        issuance::{
            authorities::SecretEntry,
            external::ExternalAuthority,
            issue::{self, IssueError},
            state::{CaState, StateError},
            store,
        },
        rotation::{
            decide::{self, Decision},
            evidence::Evidence,
            guard::Missing,
            ledger::Ledger,
            origin::{self, Copies, Origin},
            policy::Policy,
            write::Write,
        },
        unix_time::unix,
    },
    runtime::config::CA_SECRET,
};

/// How often a write is tried again at once after somebody else's.
const ATTEMPTS: usize = 4;

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// The state is gone, and only a backup or an order to start anew can help.
    #[error("Secret {CA_SECRET} has lost the CA's state ({0}) and no replica remembers it")]
    StateLost(Damage),
    /// A key or certificate could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The source of the CA offers nothing, and there is nothing yet.
    #[error("there is no issuing CA yet: its source offers none")]
    NoOffer,
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
    /// As it was before; `None`: there was none.
    pub before: Option<Ledger>,
    /// What was changed.
    pub writes: Vec<Write>,
    /// Who holds the next step.
    pub missing: Missing,
    /// What was seen of those who depend on it, if a rotation is under way.
    pub evidence: Option<Evidence>,
    /// That it was put back, and why.
    pub restored: Option<Damage>,
}

/// What is known besides the Secret; see [`Copies`].
#[derive(Debug, Clone, Copy)]
pub struct Fallback<'a> {
    /// See [`Copies::memory`].
    pub state: Option<&'a CaState>,
    /// See [`Copies::published`].
    pub published: bool,
    /// See [`Copies::accept_new_root`].
    pub accept_new_root: bool,
}

/// What a CA is to be made of.
#[derive(Debug, Clone, Copy)]
pub struct Desired<'a> {
    /// What the Mesh asks for.
    pub policy: &'a Policy,
    /// What the source offers, if it is not the operator itself.
    pub external: Option<&'a ExternalAuthority>,
}

/// See the module.
///
/// # Errors
/// See [`EnsureError`].
pub async fn ensure(
    secrets: &Api<Secret>,
    desired: Desired<'_>,
    fallback: Fallback<'_>,
    observer: &Observer<'_>,
    clock: impl Fn() -> SystemTime,
) -> Result<Ensured, EnsureError> {
    let mut attempt = 1;
    loop {
        match ensure_once(secrets, desired, fallback, observer, &clock).await {
            // Somebody wrote in between, perhaps a write of ours whose answer was lost.
            Err(EnsureError::Api(kube::Error::Api(s))) if s.code == 409 && attempt < ATTEMPTS => attempt += 1,
            ended => return ended,
        }
    }
}

async fn ensure_once(
    secrets: &Api<Secret>,
    desired: Desired<'_>,
    fallback: Fallback<'_>,
    observer: &Observer<'_>,
    clock: impl Fn() -> SystemTime,
) -> Result<Ensured, EnsureError> {
    let Desired { policy, external } = desired;
    let secret = secrets.get_opt(CA_SECRET).await?;
    // What was read is in effect at this time.
    let now = clock();
    let (held, in_secret) = store::read(secret.as_ref(), &policy.mesh);
    let copies = Copies {
        secret: in_secret.as_ref().map(|s| s.trust_domain.as_str()),
        memory: fallback.state.map(|s| s.trust_domain.as_str()),
        published: fallback.published,
        accept_new_root: fallback.accept_new_root,
    };
    let damage = || match (&held, &in_secret) {
        (SecretEntry::Bad(error), _) => Damage::Bad(error.clone()),
        (_, Some(state)) => Damage::TrustDomain(state.trust_domain.clone()),
        (_, None) => Damage::Missing,
    };
    let (base, restored) = match origin::origin(copies, &policy.trust_domain) {
        Origin::Secret => (in_secret.as_ref(), None),
        Origin::Memory => (fallback.state, Some(damage())),
        Origin::Fresh => (None, None),
        Origin::Lost => return Err(EnsureError::StateLost(damage())),
    };
    // Gathered after the ledger was read: whoever is not in it starts later, and with nothing older than that ledger.
    let ledger = base.map(|state| &state.ledger);
    let evidence = match ledger {
        Some(ledger) if !ledger.is_steady() => Some(observer.gather(ledger).await),
        _ => None,
    };
    let nothing = Evidence::default();
    let Decision { mut writes, mut missing } =
        decide::decide(ledger, policy, evidence.as_ref().unwrap_or(&nothing), unix(now));
    if writes.iter().any(Write::is_irreversible) && !observer.is_complete().await? {
        writes.clear();
        missing.unseen = true;
    }
    let state = match base {
        Some(state) if writes.is_empty() => state.clone(),
        None if writes.is_empty() => return Err(EnsureError::NoOffer),
        base => issue::apply(base, &writes, policy, external, now)?,
    };
    if !writes.is_empty() || restored.is_some() {
        store::write(secrets, secret, &policy.mesh, Some(&state)).await?;
    }
    Ok(Ensured { before: ledger.cloned(), state, writes, missing, evidence, restored })
}
