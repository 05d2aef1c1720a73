//! What the Secret `bowline-webhook` holds: the webhook's own CAs and its serving certificate, as JSON under one key.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::Secret;
use rustls::{crypto::aws_lc_rs::sign::any_ecdsa_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::ca::{
    issuance::material::{Material, MaterialError},
    unix_time::unix,
};

/// Key in the Secret.
pub const SECRET_KEY: &str = "serving.json";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The signature failed.
    #[error("the webhook's certificate cannot be made: {0}")]
    Crypto(#[from] rcgen::Error),
    /// What was read cannot be used.
    #[error("the webhook's certificate cannot be used: {0}")]
    State(#[from] MaterialError),
    /// The key is of no use to TLS.
    #[error("the webhook's key cannot be used: {0}")]
    Key(rustls::Error),
}

/// The webhook's CA, or its serving certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// Fingerprint of its certificate.
    pub id: String,
    /// For the serving certificate: the CA that signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Seconds since the Unix epoch.
    pub not_before: u64,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
    /// Certificate and key.
    #[serde(flatten)]
    pub material: Material,
}

/// What the Secret holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServingState {
    /// Oldest first.
    pub cas: Vec<Authority>,
    /// What is served; `root` names the CA that signed it.
    pub leaf: Authority,
    /// DNS name of the leaf.
    pub host: String,
    /// Nobody trusts the leaf's CA yet: whoever serves another leaf goes on with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untrusted: bool,
}

impl ServingState {
    /// What the Secret holds, if that can be used.
    #[must_use]
    pub fn read(secret: Option<&Secret>) -> Option<Self> {
        let bytes = &secret?.data.as_ref()?.get(SECRET_KEY)?.0;
        let state: Self = serde_json::from_slice(bytes).ok()?;
        let good =
            state.cas.iter().chain([&state.leaf]).all(|a| a.material.check(&a.id, a.not_before, a.not_after).is_ok());
        (good && state.signer().is_some()).then_some(state)
    }

    /// The CA that signed the leaf.
    fn signer(&self) -> Option<&Authority> {
        self.cas.iter().find(|ca| Some(&ca.id) == self.leaf.root.as_ref())
    }

    /// CAs that are still valid, PEM.
    #[must_use]
    pub fn bundle_pem(&self, now: SystemTime) -> String {
        self.valid(now).map(|ca| format!("{}\n", ca.material.certificate.trim_end())).collect()
    }

    /// CAs that are still valid, DER.
    #[must_use]
    pub fn authorities(&self, now: SystemTime) -> Vec<CertificateDer<'static>> {
        self.valid(now).filter_map(|ca| ca.material.der().ok()).collect()
    }

    fn valid(&self, now: SystemTime) -> impl Iterator<Item = &Authority> {
        let now = unix(now);
        self.cas.iter().filter(move |ca| ca.not_after > now)
    }

    /// For the TLS server.
    ///
    /// # Errors
    /// When key or certificate cannot be used.
    pub fn certified_key(&self) -> Result<CertifiedKey, CertificateError> {
        let key = self.leaf.material.signing_key()?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_der().to_vec()));
        let signer = any_ecdsa_type(&der).map_err(CertificateError::Key)?;
        Ok(CertifiedKey::new(vec![self.leaf.material.der()?], signer))
    }
}
