//! Leaves that nobody was ever given: signed with the authority's own key, which only who reads the operator's Secrets can have.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

use super::authority::fingerprint;
use super::rotation;
use crate::context::Context;
use e2e::cluster::install::NAMESPACE;

/// A chain and its key, PEM.
#[derive(Debug)]
pub struct Forged {
    /// Leaf first.
    pub chain: String,
    /// The leaf's.
    pub key: String,
}

/// A leaf of any identity that verifies in the Mesh.
///
/// # Errors
/// When the key of the issuing CA that signs is not found.
pub async fn leaf(cx: &Context, mesh: &str, uri: &str) -> Result<Forged> {
    let steady = rotation::steady(cx, mesh, super::shared::SOON).await?;
    let secret = Api::<Secret>::namespaced(cx.client(), NAMESPACE).get("bowline-ca").await?;
    let state = secret.data.and_then(|mut data| data.remove(&format!("{mesh}.json")));
    let state: Value = serde_json::from_slice(&state.context("the Secret does not know the Mesh")?.0)?;
    let (certificate, key) = find(&state, &steady.issuer).context("the Secret lacks the issuing CA that signs")?;
    sign(certificate, key, uri)
}

fn sign(certificate: &str, key: &str, uri: &str) -> Result<Forged> {
    let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI(uri.try_into()?));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let own = KeyPair::generate()?;
    let leaf = params.signed_by(&own, &issuer)?;
    Ok(Forged { chain: leaf.pem() + certificate, key: own.serialize_pem() })
}

/// The certificate of that fingerprint and the key beside it, wherever they stand.
fn find<'a>(value: &'a Value, wanted: &str) -> Option<(&'a str, &'a str)> {
    match value {
        Value::Object(fields) => {
            let text = |key: &str| fields.get(key).and_then(Value::as_str);
            let here = text("certificate").zip(text("key")).filter(|(certificate, _)| {
                let der = CertificateDer::from_pem_slice(certificate.as_bytes());
                der.is_ok_and(|der| fingerprint(&der) == wanted)
            });
            here.or_else(|| fields.values().find_map(|below| find(below, wanted)))
        }
        Value::Array(items) => items.iter().find_map(|below| find(below, wanted)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_the_one_that_signs_and_signs_with_it() {
        let make = || {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            (params.self_signed(&key).unwrap(), key.serialize_pem())
        };
        let ((a, a_key), (b, b_key)) = (make(), make());
        let state = json!({ "format": 1, "issuers": [
            { "certificate": a.pem(), "key": a_key }, { "deeper": { "certificate": b.pem(), "key": b_key } },
        ]});
        let (certificate, key) = find(&state, &fingerprint(b.der())).unwrap();
        assert_eq!((certificate, key), (b.pem().as_str(), b_key.as_str()));
        assert_eq!(find(&state, "nobody's"), None);
        let forged = sign(certificate, key, "spiffe://a.test/ns/b/sa/c").unwrap();
        assert_eq!(CertificateDer::pem_slice_iter(forged.chain.as_bytes()).count(), 2);
    }
}
