//! TLS of the identity and control server: for every Mesh a leaf of its own CA, and its bundle to verify callers with. Both are made
//! anew when the CA's state changes, and the leaf at the share of its life that the Mesh names.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bowline_proxy::contract::spiffe::SpiffeId;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rustls::{
    RootCertStore, ServerConfig,
    server::{VerifierBuilderError, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::CertificateDer;

use super::{control::subscriptions::Subscriptions, peer::mesh_of};
use crate::{
    ca::{Authorities, MeshCa, SignError, rotation::evidence::Holding},
    cluster::membership::Registry,
    runtime::config::{Config, control_identity},
};

/// Renewed at the latest after this time.
const LONGEST: Duration = Duration::from_secs(3600);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// A Mesh cannot be served.
#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("the trust domain makes no SPIFFE ID: {0}")]
    Identity(#[from] bowline_proxy::contract::spiffe::SpiffeError),
    #[error("the trust bundle makes no verifier: {0}")]
    Verifier(#[from] VerifierBuilderError),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// What a Mesh is served with.
#[derive(Clone)]
struct Entry {
    ca: Arc<MeshCa>,
    renew: SystemTime,
    issuer: String,
    key: Arc<CertifiedKey>,
    config: Arc<ServerConfig>,
}

/// Configurations by Mesh; cheap to clone.
#[derive(Clone, Default)]
pub struct MeshTls(Arc<ArcSwap<HashMap<String, Entry>>>);

impl MeshTls {
    /// The configuration for an SNI.
    #[must_use]
    pub fn choose(&self, sni: Option<&str>) -> Option<Arc<ServerConfig>> {
        self.0.load().get(mesh_of(sni?)?).map(|e| Arc::clone(&e.config))
    }

    /// What this replica lives with: evidence for rotations.
    #[must_use]
    pub fn holding(&self, mesh: &str) -> Option<Holding> {
        let entries = self.0.load();
        let entry = entries.get(mesh)?;
        Some(Holding { revision: entry.ca.ledger.revision, issuer: entry.issuer.clone() })
    }

    /// The control plane's own leaf, to prove to other replicas.
    #[must_use]
    pub fn leaf(&self, mesh: &str) -> Option<Arc<CertifiedKey>> {
        self.0.load().get(mesh).map(|e| Arc::clone(&e.key))
    }
}

/// Keeps what [`MeshTls`] serves with fresh.
pub struct TlsRenewal {
    /// Where it is kept.
    pub tls: MeshTls,
    /// The CA of every Mesh.
    pub authorities: Authorities,
    /// Where their state is read anew before anything is signed with it.
    pub secrets: Api<Secret>,
    /// Every Mesh: says when its leaf is replaced.
    pub registry: Registry,
    /// The operator's own namespace, a part of its identity.
    pub namespace: String,
    /// Proxies are sent the bundles.
    pub subscriptions: Subscriptions,
}

impl TlsRenewal {
    /// Keeps all fresh until it is dropped. Without the API server it goes on with what it has: a leaf that was signed with a state that is
    /// no longer in force would outlive what rotations wait for.
    pub async fn run(self) {
        let mut changes = self.authorities.subscribe();
        loop {
            changes.borrow_and_update();
            let wait = match self.authorities.confirm(&self.secrets).await {
                Ok(()) => self.refresh(SystemTime::now()),
                Err(error) => {
                    tracing::warn!(%error, "the CA's state cannot be read: the control plane's own certificates stay as they are");
                    RETRY
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Makes anew what must be, and sends the bundles; gives the time until the next renewal.
    pub fn refresh(&self, now: SystemTime) -> Duration {
        let old = self.tls.0.load();
        let mut new = HashMap::new();
        let mut wait = LONGEST;
        for mesh in self.authorities.names() {
            let Some(ca) = self.authorities.mesh(&mesh) else { continue };
            let known = old.get(&mesh);
            let entry = match known.filter(|k| Arc::ptr_eq(&k.ca, &ca) && now < k.renew) {
                Some(known) => Ok(known.clone()),
                None => self.make(&mesh, known, ca.clone(), now),
            };
            let entry = entry.or_else(|error| {
                tracing::error!(mesh, %error, "the control plane's own certificate cannot be made, it is tried again");
                known.cloned().ok_or(error)
            });
            // Whoever connects finds the bundle.
            self.subscriptions.set_bundle(&mesh, ca.bundle.clone());
            if let Ok(entry) = entry {
                wait = wait.min(entry.renew.duration_since(now).unwrap_or(RETRY));
                new.insert(mesh, entry);
            } else {
                wait = wait.min(RETRY);
            }
        }
        self.tls.0.store(Arc::new(new));
        wait
    }

    /// A leaf stays while its issuer is the one to serve with: only what is verified against changes with most states.
    fn make(&self, mesh: &str, known: Option<&Entry>, ca: Arc<MeshCa>, now: SystemTime) -> Result<Entry, TlsError> {
        let kept = known.filter(|k| Some(&k.issuer) == ca.serving_issuer(now) && now < k.renew);
        let (key, issuer, renew) = if let Some(known) = kept {
            (Arc::clone(&known.key), known.issuer.clone(), known.renew)
        } else {
            let id: SpiffeId = control_identity(&self.namespace, &ca.trust_domain).parse()?;
            let leaf = ca.issue_serving(&Config::control_sni(mesh), &id, now)?;
            let life = leaf.not_after.duration_since(now).unwrap_or_default();
            let percent =
                self.registry.get(mesh).map_or(50, |m| m.spec.certificates.rotation.after_percent.clamp(10, 80));
            (Arc::new(leaf.key), leaf.issuer, now + life.mul_f64(f64::from(percent) / 100.0))
        };
        let config = Arc::new(server_config(&ca, &key)?);
        Ok(Entry { ca, renew, issuer, key, config })
    }
}

/// Proves the leaf, and verifies callers with the bundle.
fn server_config(ca: &MeshCa, key: &CertifiedKey) -> Result<ServerConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for der in &ca.bundle.roots_der {
        roots.add(CertificateDer::from(der.as_slice()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // A pod that asks for its first leaf has none to show; what needs one checks that itself.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(key))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would keep an identity that is no longer verified.
    config.send_tls13_tickets = 0;
    Ok(config)
}
