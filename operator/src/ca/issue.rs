//! Carries out what [`super::decide`] decided, in memory: makes keys and certificates.

use std::time::SystemTime;

use bowline_crds::mesh::AuthorityPhase;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose, SanType};

use super::{
    decide::{Policy, Write},
    key::AuthorityKey,
    sign::{BACKDATE, serial, whole},
    state::{Authority, CaState, FORMAT, StateError, fingerprint, unix},
};

/// Why an authority could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The signature failed.
    #[error("a CA certificate cannot be made: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The state names what it does not hold, or is damaged.
    #[error("the CA's state cannot be continued: {0}")]
    State(#[from] StateError),
    /// A write that needs a state before there is one.
    #[error("the CA has no state yet")]
    NoState,
}

/// The state after all writes.
///
/// # Errors
/// When a certificate cannot be made; the state is then as it was.
pub fn apply(
    state: Option<&CaState>,
    writes: &[Write],
    policy: &Policy,
    now: SystemTime,
) -> Result<CaState, IssueError> {
    let mut state = state.cloned();
    for write in writes {
        if matches!(write, Write::FirstRoot) {
            state = Some(first(policy, now)?);
            continue;
        }
        let state = state.as_mut().ok_or(IssueError::NoState)?;
        match write {
            Write::FirstRoot => {}
            Write::Issuer { root } => add_issuer(state, root, policy, now)?,
            Write::DropIssuer { id } => state.issuers.retain(|i| i.id != *id),
            Write::LeafSeconds(seconds) => state.leaf_seconds = *seconds,
            Write::Sequence(sequence) => state.bundle_sequence = *sequence,
        }
    }
    state.ok_or(IssueError::NoState)
}

fn first(policy: &Policy, now: SystemTime) -> Result<CaState, IssueError> {
    let root = make_root(policy, now)?;
    let issuer = make_issuer(&root, policy, now)?;
    Ok(CaState {
        format: FORMAT,
        mesh: policy.mesh.clone(),
        trust_domain: policy.trust_domain.clone(),
        leaf_seconds: policy.leaf_lifetime.as_secs(),
        bundle_sequence: policy.published_sequence + 1,
        roots: vec![root],
        issuers: vec![issuer],
    })
}

fn add_issuer(state: &mut CaState, root: &str, policy: &Policy, now: SystemTime) -> Result<(), IssueError> {
    let root = state.roots.iter().find(|r| r.id == root).ok_or(StateError::Count(0))?;
    let issuer = make_issuer(root, policy, now)?;
    for old in state.issuers.iter_mut().filter(|i| i.phase == AuthorityPhase::Active) {
        old.phase = AuthorityPhase::Retiring;
    }
    state.issuers.push(issuer);
    Ok(())
}

fn make_root(policy: &Policy, now: SystemTime) -> Result<Authority, IssueError> {
    let key = AuthorityKey::generate()?;
    let name = format!("{} root {}", policy.mesh, unix(now));
    let params = ca_params(policy, &name, now, now + policy.root_lifetime, BasicConstraints::Constrained(1))?;
    let certificate = params.self_signed(&key)?;
    Ok(authority(None, &certificate, &key, now, now + policy.root_lifetime))
}

fn make_issuer(root: &Authority, policy: &Policy, now: SystemTime) -> Result<Authority, IssueError> {
    let key = AuthorityKey::generate()?;
    let not_after = (now + policy.issuer_lifetime).min(root.expires());
    let name = format!("{} issuer {}", policy.mesh, unix(now));
    let params = ca_params(policy, &name, now, not_after, BasicConstraints::Constrained(0))?;
    let parent = Issuer::from_ca_cert_der(&root.der()?, root.signing_key()?)?;
    let certificate = params.signed_by(&key, &parent)?;
    Ok(authority(Some(root.id.clone()), &certificate, &key, now, not_after))
}

/// SPIFFE wants the trust domain itself as the URI of a signing certificate (X509-SVID, section 2).
fn ca_params(
    policy: &Policy,
    name: &str,
    now: SystemTime,
    not_after: SystemTime,
    depth: BasicConstraints,
) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Bowline");
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names.push(SanType::URI(format!("spiffe://{}", policy.trust_domain).try_into()?));
    params.not_before = whole(now - BACKDATE).into();
    params.not_after = whole(not_after).into();
    params.serial_number = Some(serial());
    params.is_ca = IsCa::Ca(depth);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn authority(
    root: Option<String>,
    certificate: &rcgen::Certificate,
    key: &AuthorityKey,
    now: SystemTime,
    not_after: SystemTime,
) -> Authority {
    Authority {
        id: fingerprint(certificate.der())[..16].to_owned(),
        root,
        phase: AuthorityPhase::Active,
        created_at: unix(now),
        not_before: unix(now - BACKDATE),
        not_after: unix(not_after),
        certificate: certificate.pem(),
        key: key.to_pem(),
    }
}
