//! A certificate authority for unit tests: root → issuer → leaf.
#![allow(clippy::unwrap_used)]

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;

use super::key::Key;
use crate::contract::resource::Bundle;

/// Trust domain of every test.
pub(crate) const DOMAIN: &str = "mesh.test";

pub(crate) struct Ca {
    root: CertifiedIssuer<'static, KeyPair>,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// Parameters of a leaf that names `uris`, valid from an hour ago for a day.
pub(crate) fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|u| SanType::URI((*u).try_into().unwrap())).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = std::time::SystemTime::now();
    params.not_before = (now - std::time::Duration::from_secs(3600)).into();
    params.not_after = (now + std::time::Duration::from_secs(86400)).into();
    params
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(authority(name), key).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(authority(&format!("{name} issuer")), key, &root).unwrap();
        Self { root, issuer }
    }

    pub(crate) fn bundle(&self, sequence: u64) -> Bundle {
        Bundle { trust_domain: DOMAIN.into(), sequence, roots: vec![self.root.der().to_vec()], ..Bundle::default() }
    }

    pub(crate) fn issuer_der(&self) -> &CertificateDer<'static> {
        self.issuer.der()
    }

    /// Leaf and issuer.
    pub(crate) fn chain(&self, key: &Key, params: &CertificateParams) -> Vec<CertificateDer<'static>> {
        let public = SubjectPublicKeyInfo::from_der(&key.pair().subject_public_key_info()).unwrap();
        let leaf = params.signed_by(&public, &self.issuer).unwrap();
        vec![leaf.der().clone(), self.issuer.der().clone()]
    }

    /// Signed by the root itself.
    pub(crate) fn short_chain(&self, key: &Key, params: &CertificateParams) -> Vec<CertificateDer<'static>> {
        let public = SubjectPublicKeyInfo::from_der(&key.pair().subject_public_key_info()).unwrap();
        vec![params.signed_by(&public, &self.root).unwrap().der().clone()]
    }
}

/// Unix seconds.
pub(crate) fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}
