//! An authority outside the cluster: its root's key is nowhere but in this test, the cluster is given an issuing CA below it.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};

use super::authority::fingerprint;
use e2e::cluster::install::NAMESPACE;

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The root.
pub struct OfflineRoot {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// An issuing CA below it, for the cluster.
pub struct Intermediate {
    /// Its fingerprint.
    pub fingerprint: String,
    /// The Secret that brings it into the cluster.
    pub secret: Value,
}

impl OfflineRoot {
    /// A new one.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let params = authority(name, BasicConstraints::Unconstrained, 10 * YEAR);
        Ok(Self { certificate: params.self_signed(&key)?, issuer: Issuer::new(params, key) })
    }

    /// Its fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(self.certificate.der())
    }

    /// Signs an issuing CA and puts it into a Secret called `secret` of the operator's namespace.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn intermediate(&self, name: &str, secret: &str) -> Result<Intermediate> {
        let key = KeyPair::generate()?;
        let params = authority(name, BasicConstraints::Constrained(0), YEAR);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": { "name": secret, "namespace": NAMESPACE },
            "stringData": {
                "tls.crt": certificate.pem(), "tls.key": key.serialize_pem(), "ca.crt": self.certificate.pem(),
            },
        });
        Ok(Intermediate { fingerprint: fingerprint(certificate.der()), secret })
    }
}

fn authority(name: &str, constraints: BasicConstraints, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + life).into();
    params
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn the_roots_key_is_in_no_secret() {
        let root = OfflineRoot::new("a root").unwrap();
        let Intermediate { fingerprint: issuer, secret } = root.intermediate("an issuer", "bowline-issuer").unwrap();
        let data = |key: &str| secret["stringData"][key].as_str().unwrap().to_owned();
        let der = |pem: String| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert_eq!(fingerprint(&der(data("tls.crt"))), issuer);
        assert_eq!(fingerprint(&der(data("ca.crt"))), root.fingerprint());
        assert!(!secret.to_string().contains(&root.issuer.key().serialize_pem().replace('\n', "\\n")));
    }
}
