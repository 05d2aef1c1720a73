//! Rotations of a Mesh's certificate authority: started as users do, followed by the Mesh's status.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use bowline_crds::Mesh;
use bowline_crds::mesh::{AuthorityPhase, AuthorityStatus, CertificatesStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::shared::SOON;
use crate::context::Context;

/// What a rotation may take on a busy machine, while the operator's replicas are killed.
pub const ROTATED: Duration = Duration::from_secs(240);

/// A Mesh between two rotations: one root, one issuing CA, both active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steady {
    /// Fingerprint of the root.
    pub root: String,
    /// Fingerprint of the issuing CA.
    pub issuer: String,
    /// Sequence of the bundle.
    pub sequence: u64,
}

impl Steady {
    /// Reads a status.
    ///
    /// # Errors
    /// When something is on its way in or out; says what.
    pub fn of(certificates: &CertificatesStatus) -> Result<Self> {
        ensure!(certificates.rotation.is_none(), "a rotation is under way: {}", describe(certificates));
        let ([root], [issuer]) = (&certificates.roots[..], &certificates.issuers[..]) else {
            bail!("more or less than one root and one issuing CA: {}", describe(certificates));
        };
        let active = [root, issuer].into_iter().all(|a| a.phase == AuthorityPhase::Active);
        ensure!(active, "not all is active: {}", describe(certificates));
        let sequence = certificates.bundle_sequence;
        Ok(Self { root: root.fingerprint.clone(), issuer: issuer.fingerprint.clone(), sequence })
    }
}

/// Makes a Mesh of a test's own, with a trust domain of its own, whatever an earlier test left; `certificates` is that part of its spec.
///
/// # Errors
/// When it does not become Ready with one root and one issuing CA.
pub async fn mesh(cx: &Context, name: &str, certificates: Value) -> Result<Steady> {
    super::mesh::ensure(cx).await?;
    super::mesh::delete(cx, name).await?;
    let spec = json!({ "trustDomain": trust_domain(name), "certificates": certificates });
    super::mesh::apply(cx, name, spec).await?;
    super::mesh::ready(cx, name, SOON).await?;
    steady(cx, name, SOON).await
}

/// The trust domain of such a Mesh.
#[must_use]
pub fn trust_domain(mesh: &str) -> String {
    format!("{mesh}.test")
}

/// The identity of a workload in such a Mesh.
#[must_use]
pub fn spiffe(mesh: &str, namespace: &str, account: &str) -> String {
    format!("spiffe://{}/ns/{namespace}/sa/{account}", trust_domain(mesh))
}

/// A text that no request before had.
///
/// # Errors
/// When the clock is broken.
pub fn nonce() -> Result<String> {
    Ok(format!("e2e-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos()))
}

/// Sets an annotation of a Mesh, as `kubectl annotate --overwrite` does.
///
/// # Errors
/// When the API server refuses.
pub async fn annotate(cx: &Context, mesh: &str, annotation: &str, value: &str) -> Result<()> {
    let patch = json!({ "metadata": { "annotations": { annotation: value } } });
    patched(cx, mesh, patch).await.with_context(|| format!("cannot set {annotation} of Mesh {mesh}"))
}

/// Changes `spec.certificates` of a Mesh, key by key.
///
/// # Errors
/// When the API server refuses.
pub async fn change(cx: &Context, mesh: &str, certificates: Value) -> Result<()> {
    let patch = json!({ "spec": { "certificates": certificates } });
    patched(cx, mesh, patch).await.with_context(|| format!("cannot change Mesh {mesh}"))
}

async fn patched(cx: &Context, mesh: &str, patch: Value) -> Result<()> {
    let params = PatchParams { field_manager: Some("bowline-e2e-rotation".into()), ..PatchParams::default() };
    Api::<Mesh>::all(cx.client()).patch(mesh, &params, &Patch::Merge(patch)).await?;
    Ok(())
}

/// The certificates in a Mesh's status.
///
/// # Errors
/// When there are none.
pub async fn certificates(cx: &Context, mesh: &str) -> Result<CertificatesStatus> {
    let status = Api::<Mesh>::all(cx.client()).get(mesh).await?.status.context("the Mesh has no status")?;
    status.certificates.context("the status tells no certificates")
}

/// Waits until a Mesh's certificates are as `wanted` says, and returns what it found.
///
/// # Errors
/// After `limit`; quotes the last answer of `wanted` and where the rotation stands.
pub async fn until<T>(
    cx: &Context,
    mesh: &str,
    what: &str,
    limit: Duration,
    wanted: impl Fn(&CertificatesStatus) -> Result<T>,
) -> Result<T> {
    cx.eventually(limit, &format!("Mesh {mesh}: {what}; it did not happen"), || async {
        let now = certificates(cx, mesh).await?;
        wanted(&now).with_context(|| describe(&now))
    })
    .await
}

/// Waits until no rotation is under way.
///
/// # Errors
/// After `limit`.
pub async fn steady(cx: &Context, mesh: &str, limit: Duration) -> Result<Steady> {
    until(cx, mesh, "one root and one issuing CA, both active", limit, Steady::of).await
}

/// Waits until another root than before, and an issuing CA below it, are all that is there.
///
/// # Errors
/// After [`ROTATED`].
pub async fn root_replaced(cx: &Context, mesh: &str, old: &Steady) -> Result<Steady> {
    until(cx, mesh, "a new root alone", ROTATED, |now| {
        let new = Steady::of(now)?;
        ensure!(new.root != old.root && new.issuer != old.issuer, "the root is the old one");
        Ok(new)
    })
    .await
}

/// Waits until another issuing CA than before is all that is there, below the same root.
///
/// # Errors
/// After [`ROTATED`], or when the root is another one.
pub async fn issuer_replaced(cx: &Context, mesh: &str, old: &Steady) -> Result<Steady> {
    let new = until(cx, mesh, "a new issuing CA alone", ROTATED, |now| {
        let new = Steady::of(now)?;
        ensure!(new.issuer != old.issuer, "the issuing CA is the old one");
        Ok(new)
    })
    .await?;
    ensure!(new.root == old.root, "the root was replaced too: {} became {}", old.root, new.root);
    Ok(new)
}

/// The phase of a root, if it is there.
#[must_use]
pub fn phase(list: &[AuthorityStatus], fingerprint: &str) -> Option<AuthorityPhase> {
    list.iter().find(|a| a.fingerprint == fingerprint).map(|a| a.phase)
}

/// Where everything stands, in a line.
#[must_use]
pub fn describe(certificates: &CertificatesStatus) -> String {
    let list = |all: &[AuthorityStatus]| {
        let each = all.iter().map(|a| format!("{} {:?}", a.fingerprint.get(..8).unwrap_or(&a.fingerprint), a.phase));
        each.collect::<Vec<_>>().join(", ")
    };
    let rotation = certificates.rotation.as_ref().map_or_else(
        || "no rotation".into(),
        |r| format!("{:?} ({:?}) in {:?}: {}", r.kind, r.cause, r.phase, r.message),
    );
    format!("roots [{}], issuers [{}], {rotation}", list(&certificates.roots), list(&certificates.issuers))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A status with these roots and issuing CAs: name and phase.
    pub(crate) fn status(
        roots: &[(&str, AuthorityPhase)],
        issuers: &[(&str, AuthorityPhase)],
        sequence: u64,
    ) -> CertificatesStatus {
        let authority = |(name, phase): &(&str, AuthorityPhase)| {
            let (fingerprint, at) = ((*name).to_owned(), "2026-01-01T00:00:00Z");
            json!({ "fingerprint": fingerprint, "phase": phase, "notBefore": at, "notAfter": at })
        };
        let list = |all: &[(&str, AuthorityPhase)]| all.iter().map(authority).collect::<Vec<_>>();
        let status = json!({ "bundleSequence": sequence, "roots": list(roots), "issuers": list(issuers) });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn steady_is_one_of_each_and_both_active() {
        use AuthorityPhase::{Active, Retiring};
        let good = Steady::of(&status(&[("r", Active)], &[("i", Active)], 3)).unwrap();
        assert_eq!(good, Steady { root: "r".into(), issuer: "i".into(), sequence: 3 });
        for (roots, issuers) in [
            (&[("r", Active), ("s", Retiring)][..], &[("i", Active)][..]),
            (&[("r", Retiring)], &[("i", Active)]),
            (&[("r", Active)], &[("i", Active), ("j", Retiring)]),
            (&[], &[("i", Active)]),
        ] {
            assert!(Steady::of(&status(roots, issuers, 3)).is_err(), "{roots:?} {issuers:?}");
        }
    }
}
