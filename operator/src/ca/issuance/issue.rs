//! Carries out what [`crate::ca::rotation::decide`] decided, in memory: makes keys and certificates, or takes those that were offered.

use std::time::SystemTime;

use bowline_crds::mesh::{AuthorityPhase, RotationKind};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose, SanType};

use super::{
    external::ExternalAuthority,
    key::AuthorityKey,
    material::{Material, MaterialError},
    signer::{BACKDATE, serial},
    state::{CaState, FORMAT, StateError},
};
use crate::ca::{
    fingerprint::fingerprint,
    rotation::{
        ledger::{Entry, Id, Ledger},
        policy::{AuthoritySource, Policy},
        write::{NewAuthorities, Write},
    },
    unix_time::{at, unix, whole},
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
    /// A certificate that was just made or offered is of no use.
    #[error("the new authority cannot be used: {0}")]
    Material(#[from] MaterialError),
    /// A write that needs a state before there is one.
    #[error("the CA has no state yet")]
    NoState,
    /// The source was to offer something, and does not any more.
    #[error("the source of the CA offers nothing any more")]
    NoOffer,
}

/// The state after all writes; `external` is what [`AuthoritySource::External`] is about.
///
/// # Errors
/// When a certificate cannot be made; the state is then as it was.
pub fn apply(
    state: Option<&CaState>,
    writes: &[Write],
    policy: &Policy,
    external: Option<&ExternalAuthority>,
    now: SystemTime,
) -> Result<CaState, IssueError> {
    let mut state = match state {
        Some(state) => state.clone(),
        None if writes == [Write::First] => CaState {
            format: FORMAT,
            mesh: policy.mesh.clone(),
            trust_domain: policy.trust_domain.clone(),
            ledger: Ledger {
                bundle_sequence: policy.published_sequence,
                leaf_seconds: policy.leaf_lifetime.as_secs(),
                handled: policy.requests.clone(),
                ..Ledger::default()
            },
            material: std::collections::BTreeMap::new(),
        },
        None => return Err(IssueError::NoState),
    };
    for write in writes {
        let made = match write {
            Write::First => Some(make(&mut state, RotationKind::Root, policy, external, now)?),
            Write::Stage { kind, .. } => Some(make(&mut state, *kind, policy, external, now)?),
            _ => None,
        };
        state.ledger.apply(write, made, unix(now));
    }
    state.sweep();
    Ok(state)
}

fn make(
    state: &mut CaState,
    kind: RotationKind,
    policy: &Policy,
    external: Option<&ExternalAuthority>,
    now: SystemTime,
) -> Result<NewAuthorities, IssueError> {
    if policy.source != AuthoritySource::BuiltIn {
        return take(state, kind, external.ok_or(IssueError::NoOffer)?);
    }
    let new_root = match kind {
        RotationKind::Root => Some(make_root(policy, now)?),
        RotationKind::Issuer => None,
    };
    let issuer = match &new_root {
        Some((root, material)) => make_issuer(root, material, policy, now)?,
        None => {
            let root = state.ledger.active_root().ok_or(IssueError::NoState)?;
            make_issuer(root, state.material(&root.id)?, policy, now)?
        }
    };
    let mut keep = |(entry, material): (Entry, Material)| {
        state.material.insert(entry.id.clone(), material);
        entry
    };
    Ok(NewAuthorities { root: new_root.map(&mut keep), issuer: keep(issuer) })
}

/// Takes what the source offers.
fn take(state: &mut CaState, kind: RotationKind, external: &ExternalAuthority) -> Result<NewAuthorities, IssueError> {
    let (root_id, issuer_id) = (external.root_id(), external.issuer_id());
    let root = match kind {
        RotationKind::Root => Some(Entry { external: true, ..entry(root_id.clone(), None, &external.root)? }),
        RotationKind::Issuer => None,
    };
    let issuer = Entry { external: true, ..entry(issuer_id.clone(), Some(root_id.clone()), &external.issuer)? };
    if root.is_some() {
        state.material.insert(root_id, external.root.clone());
    }
    state.material.insert(issuer_id, external.issuer.clone());
    Ok(NewAuthorities { root, issuer })
}

fn make_root(policy: &Policy, now: SystemTime) -> Result<(Entry, Material), IssueError> {
    let key = AuthorityKey::generate()?;
    let name = format!("{} root {}", policy.mesh, unix(now));
    let params = ca_params(policy, &name, now, now + policy.root_lifetime, BasicConstraints::Constrained(1))?;
    let certificate = params.self_signed(&key)?;
    let material = Material::new(&certificate, &key);
    Ok((entry(fingerprint(certificate.der()), None, &material)?, material))
}

fn make_issuer(
    root: &Entry,
    root_material: &Material,
    policy: &Policy,
    now: SystemTime,
) -> Result<(Entry, Material), IssueError> {
    let key = AuthorityKey::generate()?;
    let not_after = (now + policy.issuer_lifetime).min(at(root.not_after));
    let name = format!("{} issuer {}", policy.mesh, unix(now));
    let params = ca_params(policy, &name, now, not_after, BasicConstraints::Constrained(0))?;
    let parent = Issuer::from_ca_cert_der(&root_material.der()?, root_material.signing_key()?)?;
    let certificate = params.signed_by(&key, &parent)?;
    let material = Material::new(&certificate, &key);
    Ok((entry(fingerprint(certificate.der()), Some(root.id.clone()), &material)?, material))
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

/// An authority as its certificate says; the ledger places it.
fn entry(id: Id, root: Option<Id>, material: &Material) -> Result<Entry, IssueError> {
    let (not_before, not_after) = material.dates()?;
    let phase = AuthorityPhase::Staged;
    Ok(Entry { id, root, phase, since: 0, not_before, not_after, sequence: 0, longest_leaf: 0, external: false })
}
