//! The webhook's own CA and serving certificate: a pure function of what the Secret holds, what the webhook's configuration trusts, and
//! the time. A new CA is trusted first and signs afterwards; an old one goes when it has expired. When the Secret is lost it is put back
//! from memory; where nobody remembers, a new CA is made, and who still serves below an old one goes on until the new one is trusted.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::api::core::v1::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType,
};
use rustls::{crypto::aws_lc_rs::sign::any_ecdsa_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::ca::{
    fingerprint::fingerprint,
    issuance::{
        key::AuthorityKey,
        material::{Material, MaterialError},
        signer::{BACKDATE, serial},
    },
    unix_time::{at, unix, whole},
};

/// Key in the Secret.
pub const SECRET_KEY: &str = "serving.json";
/// Life of the CA.
pub const CA_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Most CAs that are taken over from the configuration: there are two while one follows the other.
const MOST_KEPT: usize = 4;
/// Life of the serving certificate.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(60 * 86_400);

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

/// What is known besides the Secret.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// CAs that the webhook's configuration trusts; empty: there is none, so nobody is to be disappointed.
    pub published: Vec<CertificateDer<'static>>,
    /// The last good state that this replica read.
    pub memory: Option<Arc<ServingState>>,
}

impl Known {
    fn ids(&self) -> Vec<String> {
        self.published.iter().map(|der| fingerprint(der)).collect()
    }
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

    /// When there will be something to do; `percent`: see [`next`].
    #[must_use]
    pub fn next_change(&self, percent: u8) -> SystemTime {
        let newest = self.cas.last().map_or(0, |ca| due(ca, percent));
        let oldest = self.cas.iter().map(|ca| ca.not_after + 1).min().unwrap_or_default();
        let at = due(&self.leaf, percent).min(newest).min(oldest);
        SystemTime::UNIX_EPOCH + Duration::from_secs(at)
    }
}

/// When so much of its life is over.
fn due(a: &Authority, percent: u8) -> u64 {
    a.not_before + a.not_after.saturating_sub(a.not_before) / 100 * u64::from(percent)
}

/// The state as it should be, and whether that differs from what the Secret holds. `percent`: of its life, after which a certificate is
/// replaced.
///
/// # Errors
/// When a certificate cannot be made.
pub fn next(
    secret: Option<&Secret>,
    known: &Known,
    host: &str,
    percent: u8,
    now: SystemTime,
) -> Result<(ServingState, bool), CertificateError> {
    let held = ServingState::read(secret);
    let Some(mut state) = held.clone().or_else(|| known.memory.as_deref().cloned()) else {
        return Ok((fresh(&known.published, host, now)?, true));
    };
    let published = known.ids();
    if state.cas.last().is_none_or(|newest| due(newest, percent) <= unix(now)) {
        state.cas.push(make_ca(now)?);
    }
    let signer = signer(&state.cas, &published, now).cloned();
    match signer {
        Some(ca) if is_leaf_due(&state, &ca, host, percent, now) => {
            state.leaf = make_leaf(&ca, host, now)?;
            host.clone_into(&mut state.host);
        }
        Some(_) => {}
        None => return Ok((fresh(&known.published, host, now)?, true)),
    }
    let trusted = published.is_empty() || state.leaf.root.as_ref().is_some_and(|root| published.contains(root));
    state.untrusted &= !trusted;
    state.cas.retain(|ca| ca.not_after > unix(now));
    let changed = held != Some(state.clone());
    Ok((state, changed))
}

/// The newest CA that is trusted already, of those that can sign.
fn signer<'a>(cas: &'a [Authority], published: &[String], now: SystemTime) -> Option<&'a Authority> {
    let valid = || cas.iter().rev().filter(|ca| ca.not_after > unix(now) && ca.material.key.is_some());
    valid().find(|ca| published.contains(&ca.id)).or_else(|| valid().next())
}

fn is_leaf_due(state: &ServingState, signer: &Authority, host: &str, percent: u8, now: SystemTime) -> bool {
    state.leaf.root.as_ref() != Some(&signer.id) || due(&state.leaf, percent) <= unix(now) || state.host != host
}

/// A new CA, and beside it those that are trusted already, whose keys are lost: they go when they have expired, as always.
fn fresh(published: &[CertificateDer<'static>], host: &str, now: SystemTime) -> Result<ServingState, CertificateError> {
    let ca = make_ca(now)?;
    let leaf = make_leaf(&ca, host, now)?;
    let kept = published.iter().filter_map(without_key).filter(|old| old.not_after > unix(now));
    let mut cas: Vec<_> = kept.take(MOST_KEPT).collect();
    let untrusted = !cas.is_empty();
    cas.push(ca);
    Ok(ServingState { cas, leaf, host: host.into(), untrusted })
}

/// A CA of which there is but the certificate; `None`: it cannot be read.
fn without_key(der: &CertificateDer<'static>) -> Option<Authority> {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let certificate = pem::encode_config(&pem::Pem::new("CERTIFICATE", der.to_vec()), config);
    let material = Material { certificate, key: None };
    let (not_before, not_after) = material.dates().ok()?;
    Some(Authority { id: fingerprint(der), root: None, not_before, not_after, material })
}

fn make_ca(now: SystemTime) -> Result<Authority, CertificateError> {
    let key = AuthorityKey::generate()?;
    let not_after = now + CA_LIFETIME;
    let mut params = params(&format!("bowline webhook CA {}", unix(now)), now, not_after);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key)?;
    Ok(authority(None, &certificate, &key, now, not_after))
}

fn make_leaf(ca: &Authority, host: &str, now: SystemTime) -> Result<Authority, CertificateError> {
    let key = AuthorityKey::generate()?;
    let not_after = (now + LEAF_LIFETIME).min(at(ca.not_after));
    let mut params = params(host, now, not_after);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = vec![SanType::DnsName(host.try_into()?)];
    params.use_authority_key_identifier_extension = true;
    let certificate =
        params.signed_by(&key, &Issuer::from_ca_cert_der(&ca.material.der()?, ca.material.signing_key()?)?)?;
    Ok(authority(Some(ca.id.clone()), &certificate, &key, now, not_after))
}

fn params(name: &str, now: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = whole(now - BACKDATE).into();
    params.not_after = whole(not_after).into();
    params.serial_number = Some(serial());
    params
}

fn authority(
    root: Option<String>,
    certificate: &rcgen::Certificate,
    key: &AuthorityKey,
    now: SystemTime,
    not_after: SystemTime,
) -> Authority {
    Authority {
        id: fingerprint(certificate.der()),
        root,
        not_before: unix(now - BACKDATE),
        not_after: unix(not_after),
        material: Material::new(certificate, key),
    }
}

#[cfg(test)]
mod tests;
