//! What several tests of the CA need.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bowline_proxy::contract::{proto::TrustBundle, spiffe::SpiffeId};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{
    issuance::{issue, signer::SignedLeaf, state::CaState},
    rotation::{
        policy::{AuthoritySource, Policy},
        write::Write,
    },
};
use crate::cluster::mesh::rotation::Requests;

pub(crate) fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A root of 1000 h, issuers of 100 h, leaves of 24 h.
pub(crate) fn policy(mesh: &str) -> Policy {
    let hours = |n: u64| Duration::from_secs(n * 3600);
    Policy {
        mesh: mesh.into(),
        trust_domain: "cluster.local".into(),
        root_lifetime: hours(1000),
        issuer_lifetime: hours(100),
        leaf_lifetime: hours(24),
        after_percent: 50,
        requests: Requests::default(),
        distrust: Vec::new(),
        source: AuthoritySource::BuiltIn,
        published_sequence: 0,
    }
}

pub(crate) fn state(mesh: &str) -> CaState {
    issue::apply(None, &[Write::First], &policy(mesh), None, start()).unwrap()
}

pub(crate) fn csr(id: &SpiffeId) -> Vec<u8> {
    csr_with(vec![SanType::URI(id.as_str().try_into().unwrap())], &KeyPair::generate().unwrap())
}

pub(crate) fn csr_with(names: Vec<SanType>, key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.serialize_request(key).unwrap().der().to_vec()
}

/// Verifies a leaf as a server and as a client would, with webpki.
pub(crate) fn verify(leaf: &SignedLeaf, bundle: &TrustBundle, now: SystemTime) -> Result<(), webpki::Error> {
    let roots: Vec<CertificateDer<'_>> = bundle.roots_der.iter().map(|r| CertificateDer::from(r.as_slice())).collect();
    let anchors = roots.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>()?;
    let chain: Vec<CertificateDer<'_>> = leaf.chain_der.iter().map(|c| CertificateDer::from(c.as_slice())).collect();
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
    let end = EndEntityCert::try_from(&chain[0])?;
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        let algorithms = [webpki::aws_lc_rs::ECDSA_P256_SHA256];
        end.verify_for_usage(&algorithms, &anchors, &chain[1..], now, usage, None, None)?;
    }
    Ok(())
}
