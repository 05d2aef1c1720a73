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
use rustls_pki_types::CertificateDer;

use crate::{
    ca::{
        fingerprint::fingerprint,
        issuance::{
            key::AuthorityKey,
            material::Material,
            signer::{BACKDATE, serial},
        },
        unix_time::{at, unix, whole},
    },
    serving::certificate::state::{Authority, CertificateError, ServingState},
};

/// Life of the CA.
pub const CA_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Most CAs that are taken over from the configuration: there are two while one follows the other.
const MOST_KEPT: usize = 4;
/// Life of the serving certificate.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(60 * 86_400);

/// What is in use, besides the Secret.
#[derive(Debug, Clone, Default)]
pub struct InUse {
    /// CAs that the webhook's configuration trusts; empty: there is none, so nobody is to be disappointed.
    pub published: Vec<CertificateDer<'static>>,
    /// The last good state that this replica read.
    pub memory: Option<Arc<ServingState>>,
}

impl InUse {
    fn ids(&self) -> Vec<String> {
        self.published.iter().map(|der| fingerprint(der)).collect()
    }
}

/// When there will be something to do; `percent`: see [`next`].
#[must_use]
pub fn next_change(state: &ServingState, percent: u8) -> SystemTime {
    let newest = state.cas.last().map_or(0, |ca| due(ca, percent));
    let oldest = state.cas.iter().map(|ca| ca.not_after + 1).min().unwrap_or_default();
    let at = due(&state.leaf, percent).min(newest).min(oldest);
    SystemTime::UNIX_EPOCH + Duration::from_secs(at)
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
    in_use: &InUse,
    host: &str,
    percent: u8,
    now: SystemTime,
) -> Result<(ServingState, bool), CertificateError> {
    let held = ServingState::read(secret);
    let Some(mut state) = held.clone().or_else(|| in_use.memory.as_deref().cloned()) else {
        return Ok((fresh(&in_use.published, host, now)?, true));
    };
    let published = in_use.ids();
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
        None => return Ok((fresh(&in_use.published, host, now)?, true)),
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
