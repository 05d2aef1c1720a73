//! TLS of the identity and control server: for every Mesh a leaf of its own CA, and its bundle to verify callers with. Both are made
//! anew when the CA's state changes, and the leaf at the share of its life that the Mesh names.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bowline_proxy::contract::spiffe::SpiffeId;
use rustls::{
    RootCertStore, ServerConfig,
    server::{VerifierBuilderError, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::subscribers::Hub;
use crate::{
    ca::{MeshCa, SignError, evidence::Holding, store},
    runtime::{config::Config, context::Ctx},
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
pub struct Tls(Arc<ArcSwap<HashMap<String, Entry>>>);

impl Tls {
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

    /// Keeps all fresh until it is dropped; tells `hub` of the bundles. Without the API server it goes on with what it has: a leaf that was
    /// signed with a state that is no longer in force would outlive what rotations wait for.
    pub async fn keep(self, ctx: Arc<Ctx>, hub: Hub) {
        let mut changes = ctx.authorities.subscribe();
        let secrets = store::api(&ctx);
        loop {
            changes.borrow_and_update();
            let wait = match ctx.authorities.confirm(&secrets).await {
                Ok(()) => self.refresh(&ctx, &hub, SystemTime::now()),
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

    /// Makes anew what must be; gives the time until the next renewal.
    pub fn refresh(&self, ctx: &Ctx, hub: &Hub, now: SystemTime) -> Duration {
        let old = self.0.load();
        let mut new = HashMap::new();
        let mut wait = LONGEST;
        for mesh in ctx.authorities.names() {
            let Some(ca) = ctx.authorities.mesh(&mesh) else { continue };
            let known = old.get(&mesh);
            let entry = match known.filter(|k| Arc::ptr_eq(&k.ca, &ca) && now < k.renew) {
                Some(known) => Ok(known.clone()),
                None => make(ctx, &mesh, known, ca.clone(), now),
            };
            let entry = entry.or_else(|error| {
                tracing::error!(mesh, %error, "the control plane's own certificate cannot be made, it is tried again");
                known.cloned().ok_or(error)
            });
            // Whoever connects finds the bundle.
            hub.set_bundle(&mesh, ca.bundle.clone());
            if let Ok(entry) = entry {
                wait = wait.min(entry.renew.duration_since(now).unwrap_or(RETRY));
                new.insert(mesh, entry);
            } else {
                wait = wait.min(RETRY);
            }
        }
        self.0.store(Arc::new(new));
        wait
    }
}

/// The Mesh that an SNI names.
#[must_use]
pub fn mesh_of(sni: &str) -> Option<&str> {
    sni.strip_suffix(&Config::control_sni(""))
}

/// A leaf stays while its issuer is the one to serve with: only what is verified against changes with most states.
fn make(ctx: &Ctx, mesh: &str, known: Option<&Entry>, ca: Arc<MeshCa>, now: SystemTime) -> Result<Entry, TlsError> {
    let kept = known.filter(|k| Some(&k.issuer) == ca.serving_issuer(now) && now < k.renew);
    let (key, issuer, renew) = if let Some(known) = kept {
        (Arc::clone(&known.key), known.issuer.clone(), known.renew)
    } else {
        let id: SpiffeId = ctx.config.control_identity(&ca.trust_domain).parse()?;
        let leaf = ca.issue_serving(&Config::control_sni(mesh), &id, now)?;
        let life = leaf.not_after.duration_since(now).unwrap_or_default();
        let percent = ctx.registry.get(mesh).map_or(50, |m| m.spec.certificates.rotation.after_percent.clamp(10, 80));
        (Arc::new(leaf.key), leaf.issuer, now + life.mul_f64(f64::from(percent) / 100.0))
    };
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
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&key))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would keep an identity that is no longer verified.
    config.send_tls13_tickets = 0;
    Ok(Entry { ca, renew, issuer, key, config: Arc::new(config) })
}

/// The SPIFFE ID of a verified certificate: its only URI (X509-SVID, section 2).
#[must_use]
pub fn identity(leaf: &CertificateDer<'_>) -> Option<SpiffeId> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|n| match n {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let id = uris.next()?.parse().ok()?;
    uris.next().is_none().then_some(id)
}
