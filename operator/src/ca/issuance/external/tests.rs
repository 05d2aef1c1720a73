use std::time::Duration;

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
    PKCS_RSA_SHA256,
};

use super::*;
use crate::ca::{
    MeshCa,
    issuance::issue,
    rotation::{policy::Policy, write::Write},
    testing::{self, start},
};

const DOMAIN: &str = "cluster.local";

struct Authority {
    key: KeyPair,
    params: CertificateParams,
    pem: String,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (start() - Duration::from_secs(3600)).into();
    params.not_after = (start() + Duration::from_secs(86_400)).into();
    params
}

fn root_with(params: CertificateParams, key: KeyPair) -> Authority {
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { key, params, pem }
}

fn root() -> Authority {
    root_with(params("offline root"), KeyPair::generate().unwrap())
}

fn below(parent: &Authority, params: CertificateParams, key: KeyPair) -> Authority {
    let issuer = Issuer::from_params(&parent.params, &parent.key);
    let pem = params.signed_by(&key, &issuer).unwrap().pem();
    Authority { key, params, pem }
}

fn issuer(parent: &Authority) -> Authority {
    below(parent, params("issuer"), KeyPair::generate().unwrap())
}

fn secret(certificate: &str, key: &str, root: &str) -> Secret {
    let entry = |k: &str, v: &str| (k.to_owned(), ByteString(v.as_bytes().to_vec()));
    let data = [entry("tls.crt", certificate), entry("tls.key", key), entry("ca.crt", root)];
    Secret { data: Some(data.into()), ..Secret::default() }
}

fn read(certificate: &str, key: &str, root: &str) -> Result<ExternalAuthority, ExternalError> {
    ExternalAuthority::read(Some(&secret(certificate, key, root)), DOMAIN, start())
}

#[test]
fn an_intermediate_below_an_offline_root_is_taken() {
    let root = root();
    let middle = below(&root, params("middle"), KeyPair::generate().unwrap());
    let issuer = issuer(&middle);
    let chain = format!("{}{}{}", issuer.pem, middle.pem, root.pem);
    let offered = read(&chain, &issuer.key.serialize_pem(), &root.pem).unwrap();
    assert_eq!(offered.issuer.chain().unwrap().len(), 2, "the root is no part of the chain");
    assert!(offered.root.key.is_none());
    assert_eq!(offered, read(&chain, &issuer.key.serialize_pem(), &root.pem).unwrap(), "its ids are stable");
}

#[test]
fn a_root_of_another_kind_of_key_is_taken() {
    let root = root_with(params("P-384"), KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
    let issuer = issuer(&root);
    read(&issuer.pem, &issuer.key.serialize_pem(), &root.pem).unwrap();
}

#[test]
fn what_cannot_be_used_is_named() {
    let root = root();
    let good = issuer(&root);
    let key = good.key.serialize_pem();
    let other = issuer(&root);
    let foreign = issuer(&super::tests::root());
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).ok().map(|key| below(&root, params("rsa"), key));
    let leaf = {
        let mut params = params("leaf");
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        below(&root, params, KeyPair::generate().unwrap())
    };
    let expired = {
        let mut params = params("old");
        params.not_after = (start() - Duration::from_secs(60)).into();
        below(&root, params, KeyPair::generate().unwrap())
    };
    let bad = |result: Result<ExternalAuthority, ExternalError>| result.unwrap_err().to_string();
    assert!(bad(ExternalAuthority::read(None, DOMAIN, start())).contains("no such Secret"));
    assert!(bad(ExternalAuthority::read(Some(&Secret::default()), DOMAIN, start())).contains("tls.crt"));
    assert!(bad(read("x", &key, &root.pem)).contains("tls.crt"));
    assert!(bad(read(&good.pem, "x", &root.pem)).contains("tls.key"));
    assert!(bad(read(&good.pem, &other.key.serialize_pem(), &root.pem)).contains("not that of its certificate"));
    assert!(bad(read(&good.pem, &key, "x")).contains("ca.crt"));
    assert!(bad(read(&good.pem, &key, &other.pem)).contains("self-signed"));
    assert!(bad(read(&foreign.pem, &foreign.key.serialize_pem(), &root.pem)).contains("does not verify"));
    assert!(bad(read(&leaf.pem, &leaf.key.serialize_pem(), &root.pem)).contains("no CA certificate"));
    assert!(bad(read(&expired.pem, &expired.key.serialize_pem(), &root.pem)).contains("expired"));
    if let Some(rsa) = rsa {
        assert!(bad(read(&rsa.pem, &rsa.key.serialize_pem(), &root.pem)).contains("P-256"));
    }
    for error in [read(&good.pem, &other.key.serialize_pem(), &root.pem), read(&good.pem, "x", &root.pem)] {
        assert!(!bad(error).contains("PRIVATE"), "an error shows a key");
    }
}

#[test]
fn a_path_that_is_too_long_is_refused() {
    let mut short = params("no intermediates below");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root = root();
    let middle = below(&root, short, KeyPair::generate().unwrap());
    let issuer = issuer(&middle);
    let chain = format!("{}{}", issuer.pem, middle.pem);
    let error = read(&chain, &issuer.key.serialize_pem(), &root.pem).unwrap_err();
    assert!(matches!(error, ExternalError::Chain(_)), "{error}");
}

#[test]
fn no_leaf_outlives_the_root_even_if_its_issuer_does() {
    let mut short = params("root that ends first");
    short.not_after = (start() + Duration::from_secs(7200)).into();
    let root = root_with(short, KeyPair::generate().unwrap());
    let issuer = issuer(&root);
    let offered = read(&issuer.pem, &issuer.key.serialize_pem(), &root.pem).unwrap();
    let policy = Policy { source: offered.source(), ..testing::policy("default") };
    let state = issue::apply(None, &[Write::First], &policy, Some(&offered), start()).unwrap();
    let web = SpiffeId::new(DOMAIN, "shop", "web").unwrap();
    let leaf = MeshCa::new(&state).unwrap().sign_leaf(&testing::csr(&web), &web, start()).unwrap();
    assert_eq!(leaf.not_after, start() + Duration::from_secs(7200));
}
