use rcgen::{CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::*;
use crate::ca::{
    issuance::sign_error::MAX_CSR_BYTES,
    testing::{csr, csr_with, start, state, verify},
    unix_time::at,
};

fn web() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "web").unwrap()
}

fn ca() -> MeshCa {
    MeshCa::new(&state("default")).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_leaf_is_an_svid() {
    let (ca, now) = (ca(), start());
    let leaf = ca.sign_leaf(&csr(&web()), &web(), now).unwrap();
    verify(&leaf, &ca.bundle, now).unwrap();
    let (_, cert) = X509Certificate::from_der(&leaf.chain_der[0]).unwrap();
    assert_eq!(cert.subject().iter().count(), 0);
    let san = cert.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical, "the names must be critical because the subject is empty");
    assert_eq!(san.value.general_names, [GeneralName::URI(web().as_str())]);
    let constraints = cert.basic_constraints().unwrap();
    assert!(constraints.is_none_or(|c| !c.value.ca));
    let usage = cert.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign() && !usage.value.key_encipherment());
    let extended = cert.extended_key_usage().unwrap().unwrap();
    assert!(extended.value.server_auth && extended.value.client_auth && !extended.value.any);
    let unix = |t: SystemTime| i64::try_from(crate::ca::unix_time::unix(t)).unwrap();
    assert_eq!(cert.validity().not_before.timestamp(), unix(now) - 300);
    assert_eq!(cert.validity().not_after.timestamp(), unix(now) + 86_400);
    assert_eq!(leaf.not_after, now + Duration::from_secs(86_400));
    assert!(cert.raw_serial().len() >= 12, "a short serial number: {:?}", cert.raw_serial());
    let again = ca.sign_leaf(&csr(&web()), &web(), now).unwrap();
    let (_, again) = X509Certificate::from_der(&again.chain_der[0]).unwrap();
    assert_ne!(again.raw_serial(), cert.raw_serial());
}

#[test]
fn a_leaf_never_outlives_its_issuer() {
    let ca = ca();
    let end = at(ca.ledger.issuers[0].not_after);
    let late = end - Duration::from_secs(60);
    let leaf = ca.sign_leaf(&csr(&web()), &web(), late).unwrap();
    assert_eq!(leaf.not_after, end);
    let error = ca.sign_leaf(&csr(&web()), &web(), end).unwrap_err();
    assert!(matches!(error, SignError::IssuerExpired), "{error}");
}

#[test]
fn only_the_workloads_own_name_is_signed() {
    let key = KeyPair::generate().unwrap();
    for names in [
        vec![],
        vec![uri("spiffe://cluster.local/ns/shop/sa/admin")],
        vec![uri("spiffe://cluster.local/ns/shop/sa/web/")],
        vec![uri("SPIFFE://cluster.local/ns/shop/sa/web")],
        vec![uri(web().as_str()), uri("spiffe://cluster.local/ns/shop/sa/admin")],
        vec![uri(web().as_str()), SanType::DnsName("web.shop".try_into().unwrap())],
        vec![SanType::DnsName("web.shop".try_into().unwrap())],
        vec![uri(web().as_str()), SanType::IpAddress([10, 0, 0, 1].into())],
    ] {
        let error = ca().sign_leaf(&csr_with(names.clone(), &key), &web(), start()).unwrap_err();
        assert!(matches!(error, SignError::Names { .. }), "{names:?}: {error}");
    }
}

#[test]
fn damaged_requests_are_refused() {
    let good = csr(&web());
    let refused = |request: &[u8]| ca().sign_leaf(request, &web(), start()).unwrap_err();
    assert!(matches!(refused(&[]), SignError::Malformed(_)));
    assert!(matches!(refused(&good[..good.len() - 1]), SignError::Malformed(_)));
    let mut longer = good.clone();
    longer.push(0);
    assert!(matches!(refused(&longer), SignError::Malformed(_)));
    assert!(matches!(refused(&vec![0x30; MAX_CSR_BYTES + 1]), SignError::TooLarge(_)));
    let mut forged = good.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(matches!(refused(&forged), SignError::Signature | SignError::Malformed(_)));
    // The name changed after it was signed.
    let at = good.windows(3).position(|w| w == b"web").unwrap();
    let mut renamed = good;
    renamed[at..at + 3].copy_from_slice(b"adm");
    assert!(matches!(refused(&renamed), SignError::Signature));
}

#[test]
fn only_p256_keys_are_signed() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let error = ca().sign_leaf(&csr_with(vec![uri(web().as_str())], &key), &web(), start()).unwrap_err();
        assert!(matches!(error, SignError::KeyType), "{error}");
    }
}

#[test]
fn nothing_else_in_a_request_is_honoured() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(web().as_str())];
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
    let request = params.serialize_request(&key).map(|r| r.der().to_vec());
    // rcgen may refuse to ask for a CA at all, which is as good.
    let Ok(request) = request else { return };
    let leaf = ca().sign_leaf(&request, &web(), start()).unwrap();
    let (_, cert) = X509Certificate::from_der(&leaf.chain_der[0]).unwrap();
    assert!(cert.basic_constraints().unwrap().is_none_or(|c| !c.value.ca));
    assert!(!cert.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(cert.subject().iter().count(), 0);
}

#[test]
fn the_control_server_gets_both_of_its_names() {
    let ca = ca();
    let id = SpiffeId::new("cluster.local", "bowline-system", "bowline-operator").unwrap();
    let key = ca.issue_serving("default.mesh.bowline.internal", &id, start()).unwrap();
    let (_, cert) = X509Certificate::from_der(&key.key.cert[0]).unwrap();
    let names = &cert.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(*names, [GeneralName::URI(id.as_str()), GeneralName::DNSName("default.mesh.bowline.internal")]);
    key.key.keys_match().unwrap();
}
