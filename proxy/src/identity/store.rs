//! What the proxy proves and trusts now: leaf and bundle as one, swapped as one. New handshakes take the current; those under
//! way keep what they began with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::leaf::Leaf;
use crate::{
    contract::{resource::Bundle, spiffe::SpiffeId},
    identity::tls::{self, Configs, TlsError},
};

/// Leaf, bundle and the TLS configurations made of them.
#[derive(Clone)]
pub struct Current {
    /// Grows with every change, from 1.
    pub generation: u64,
    /// Who this workload is.
    pub id: SpiffeId,
    /// Last second of the leaf's validity, Unix time.
    pub not_after: i64,
    /// What is trusted.
    pub bundle: Arc<Bundle>,
    /// What is presented: leaf first, root not in it.
    pub chain: Arc<Vec<CertificateDer<'static>>>,
    /// For new handshakes.
    pub tls: Configs,
    /// SHA-256 over the DER of the certificate that signed the leaf.
    pub issuer_sha256: [u8; 32],
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current")
            .field("generation", &self.generation)
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .field("bundle", &self.bundle.sequence)
            .finish_non_exhaustive()
    }
}

/// Why a bundle was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Of another mesh.
    #[error("trust bundle {sequence} is of trust domain {found:?}, this workload is in {expected:?}: it is not taken")]
    Domain {
        /// Of the bundle.
        sequence: u64,
        /// Its trust domain.
        found: String,
        /// Ours.
        expected: String,
    },
    /// A leaf that was signed before the bundle in use was made.
    #[error("the new leaf was signed when bundle {signed} was in force, and {held} is by now: another is asked for")]
    Overtaken {
        /// Bundle that came with the leaf.
        signed: u64,
        /// Bundle in use.
        held: u64,
    },
    /// No TLS configuration can be made of it.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Holds the [`Current`].
#[derive(Debug)]
pub struct Store {
    current: ArcSwapOption<Current>,
    generation: watch::Sender<u64>,
    inputs: Mutex<Inputs>,
}

/// What the next [`Current`] is made of.
#[derive(Debug, Default)]
struct Inputs {
    leaf: Option<Arc<Leaf>>,
    bundle: Option<Arc<Bundle>>,
}

impl Store {
    /// Empty: nobody can be proved to or trusted.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { current: ArcSwapOption::empty(), generation: watch::Sender::new(0), inputs: Mutex::default() })
    }

    /// What holds now; `None` before the first leaf.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Current>> {
        self.current.load_full()
    }

    /// Changes with every [`Store::publish`]; holds the generation.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Makes `current` what holds from now on, under the next generation.
    pub fn publish(&self, mut current: Current) {
        // The lock of the sender orders concurrent publishers.
        self.generation.send_modify(|generation| {
            *generation += 1;
            current.generation = *generation;
            self.current.store(Some(Arc::new(current)));
        });
    }

    /// The leaf in use.
    #[must_use]
    pub fn leaf(&self) -> Option<Arc<Leaf>> {
        self.inputs().leaf.clone()
    }

    /// The newest bundle that was seen, with or without a leaf.
    #[must_use]
    pub fn bundle(&self) -> Option<Arc<Bundle>> {
        self.inputs().bundle.clone()
    }

    /// Takes a new leaf and the bundle that came with it.
    ///
    /// # Errors
    /// When they do not make a TLS configuration, the bundle is of another trust domain, or older than the one in use: the control plane
    /// counts on it that whoever reports a bundle takes no leaf from before it. The old ones stay in use.
    pub fn install_leaf(&self, leaf: Leaf, bundle: Bundle) -> Result<(), StoreError> {
        let mut inputs = self.inputs();
        let leaf = Arc::new(leaf);
        if let Some(held) = inputs.bundle.as_ref().filter(|held| held.sequence > bundle.sequence) {
            return Err(StoreError::Overtaken { signed: bundle.sequence, held: held.sequence });
        }
        let bundle = newest(inputs.bundle.as_ref(), bundle, leaf.id.trust_domain())?.0;
        self.publish(assemble(&leaf, &bundle)?);
        *inputs = Inputs { leaf: Some(leaf), bundle: Some(bundle) };
        Ok(())
    }

    /// Takes a bundle if it is newer than the one in use; `false` when it is not.
    ///
    /// # Errors
    /// When it makes no TLS configuration or is of another trust domain; the old one stays in use.
    pub fn install_bundle(&self, bundle: Bundle) -> Result<bool, StoreError> {
        let mut inputs = self.inputs();
        let domain = match (&inputs.leaf, &inputs.bundle) {
            (Some(leaf), _) => leaf.id.trust_domain().to_owned(),
            (None, Some(bundle)) => bundle.trust_domain.clone(),
            (None, None) => bundle.trust_domain.clone(),
        };
        let (bundle, newer) = newest(inputs.bundle.as_ref(), bundle, &domain)?;
        if !newer {
            return Ok(false);
        }
        if let Some(leaf) = &inputs.leaf {
            self.publish(assemble(leaf, &bundle)?);
        }
        inputs.bundle = Some(bundle);
        Ok(true)
    }

    /// Takes a mounted bundle if it is newer than the one in use; gives the newer of the two. One that cannot be taken is logged.
    pub(crate) fn offer_bundle(&self, mounted: Bundle) -> Arc<Bundle> {
        let fallback = Arc::new(mounted.clone());
        if let Err(e) = self.install_bundle(mounted) {
            tracing::error!(error = %e, "the mounted trust bundle is not used");
        }
        self.bundle().unwrap_or(fallback)
    }

    fn inputs(&self) -> MutexGuard<'_, Inputs> {
        // Assigned only after everything that can fail; a panic leaves them whole.
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bundle with the higher sequence, and whether that is the offered one.
fn newest(held: Option<&Arc<Bundle>>, offered: Bundle, domain: &str) -> Result<(Arc<Bundle>, bool), StoreError> {
    if offered.trust_domain != domain {
        let (sequence, found) = (offered.sequence, offered.trust_domain);
        return Err(StoreError::Domain { sequence, found, expected: domain.into() });
    }
    match held {
        Some(held) if held.sequence >= offered.sequence => Ok((Arc::clone(held), false)),
        _ => Ok((Arc::new(offered), true)),
    }
}

fn assemble(leaf: &Leaf, bundle: &Arc<Bundle>) -> Result<Current, TlsError> {
    Ok(Current {
        generation: 0,
        id: leaf.id.clone(),
        not_after: leaf.not_after,
        bundle: Arc::clone(bundle),
        chain: Arc::new(leaf.chain.clone()),
        tls: tls::build(leaf.chain.clone(), Arc::clone(&leaf.key), bundle)?,
        issuer_sha256: leaf.issuer_sha256,
    })
}

#[cfg(test)]
mod tests;
