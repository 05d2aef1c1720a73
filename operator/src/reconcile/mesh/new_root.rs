//! How somebody accepts that a lost root is replaced: by naming it. So what they wrote says nothing about the root that comes after, and
//! may stay in a Git repository.

use bowline_crds::names::NEW_ROOT_ANNOTATION;
use bowline_proxy::contract::bootstrap::TRUST_KEY_BUNDLE;
use kube::ResourceExt;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{config_map, fetch::Observed};
use crate::ca::fingerprint::fingerprint;

/// What is to be named: the roots that were lost, as the status knows them, or else the bundles that are mounted. The one that signed is the
/// first. Never empty.
#[must_use]
pub fn lost(observed: &Observed) -> Vec<String> {
    let status = observed.mesh.status.as_ref().and_then(|s| s.certificates.as_ref());
    let mut roots: Vec<String> = status.iter().flat_map(|c| &c.roots).rev().map(|r| r.fingerprint.clone()).collect();
    let newest = observed.config_maps.values().max_by_key(|map| config_map::sequence(map));
    if roots.is_empty()
        && let Some(bundle) = newest.and_then(|map| map.data.as_ref()?.get(TRUST_KEY_BUNDLE))
    {
        let certificates = CertificateDer::pem_slice_iter(bundle.as_bytes()).filter_map(Result::ok);
        roots = certificates.map(|der| fingerprint(&der)).collect();
        roots.reverse();
    }
    if roots.is_empty() {
        // Nobody knows what it was: its number is not used again either.
        let published = newest.and_then(|map| config_map::sequence(map)).into_iter();
        let sequence = published.chain(status.map(|c| c.bundle_sequence)).max().unwrap_or_default();
        roots.push(format!("sequence-{sequence}"));
    }
    roots
}

/// Whether somebody accepted the loss.
#[must_use]
pub fn is_accepted(observed: &Observed) -> bool {
    let named = observed.mesh.annotations().get(NEW_ROOT_ANNOTATION);
    named.is_some_and(|named| lost(observed).iter().any(|root| root == named.trim()))
}
