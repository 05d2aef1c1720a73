//! Everything that signs for one Mesh: its issuing CAs, ready to use, and the bundle that goes with them.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use bowline_proxy::contract::{proto::TrustBundle, spiffe::SpiffeId};
use rustls::{crypto::aws_lc_rs::sign::any_ecdsa_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{
    csr::verified_key,
    key::AuthorityKey,
    sign_error::SignError,
    signer::{SignedLeaf, Signer, crypto},
    state::{CaState, StateError},
};
use crate::ca::{
    fingerprint::digest,
    rotation::ledger::{Id, Ledger},
    unix_time::unix,
};

/// Signs for one Mesh.
#[derive(Debug)]
pub struct MeshCa {
    /// Name of the Mesh.
    pub mesh: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Which authorities there are; everything here follows from it.
    pub ledger: Ledger,
    /// What workloads trust, and whose leaves they want.
    pub bundle: TrustBundle,
    signers: HashMap<Id, Signer>,
}

/// A leaf of the control plane's own.
#[derive(Debug)]
pub struct ServingLeaf {
    /// For TLS.
    pub key: CertifiedKey,
    /// Who signed it.
    pub issuer: Id,
    /// End of its validity.
    pub not_after: SystemTime,
}

impl MeshCa {
    /// Prepares signing with every issuer that is in use.
    ///
    /// # Errors
    /// When there is no active issuer, or something in the state is damaged.
    pub fn new(state: &CaState) -> Result<Self, StateError> {
        let ledger = &state.ledger;
        let active = ledger.active_issuer().ok_or(StateError::Count(0))?;
        let mut signers = HashMap::new();
        for issuer in &ledger.issuers {
            let fault = |fault| StateError::Material { id: issuer.id.chars().take(16).collect(), fault };
            let root = ledger.roots.iter().find(|r| Some(&r.id) == issuer.root.as_ref());
            let until = root.map_or(issuer.not_after, |r| r.not_after);
            signers.insert(issuer.id.clone(), Signer::new(state.material(&issuer.id)?, until).map_err(fault)?);
        }
        let roots =
            ledger.trusted_roots().map(|r| Ok(state.der(&r.id)?.to_vec())).collect::<Result<_, StateError>>()?;
        let bundle = TrustBundle {
            trust_domain: state.trust_domain.clone(),
            sequence: ledger.bundle_sequence,
            roots_der: roots,
            issuers_sha256: vec![digest(&active.id)],
            renew_within_seconds: ledger.renew_within,
            revoked_sha256: ledger.revoked.iter().map(|r| digest(&r.id)).collect(),
        };
        Ok(Self {
            mesh: state.mesh.clone(),
            trust_domain: state.trust_domain.clone(),
            ledger: ledger.clone(),
            bundle,
            signers,
        })
    }

    /// Checks a request (PKCS #10, DER) and signs a leaf for `id`, whom the caller has authenticated. The request's only subject
    /// alternative name must be `id`; nothing else in it is honoured.
    ///
    /// # Errors
    /// Says what is wrong with the request; see [`SignError`].
    pub fn sign_leaf(&self, csr_der: &[u8], id: &SpiffeId, now: SystemTime) -> Result<SignedLeaf, SignError> {
        let key = verified_key(csr_der, id)?;
        let signer = self.ledger.active_issuer().and_then(|i| self.signers.get(&i.id)).ok_or(SignError::NoIssuer)?;
        signer.sign(&key, id, None, self.leaf_lifetime(), now)
    }

    /// Life of leaves, unless their issuing CA ends earlier.
    #[must_use]
    pub fn leaf_lifetime(&self) -> Duration {
        Duration::from_secs(self.ledger.leaf_seconds)
    }

    /// Who signs the control plane's own leaf at `now`.
    #[must_use]
    pub fn serving_issuer(&self, now: SystemTime) -> Option<&Id> {
        self.ledger.serving_issuer(unix(now)).map(|i| &i.id)
    }

    /// Makes a key and a leaf for the control server of this Mesh: SPIFFE ID and the DNS name `sni`.
    ///
    /// # Errors
    /// When the issuing CA has expired or `sni` is no DNS name.
    pub fn issue_serving(&self, sni: &str, id: &SpiffeId, now: SystemTime) -> Result<ServingLeaf, SignError> {
        let issuer = self.serving_issuer(now).ok_or(SignError::NoIssuer)?;
        let signer = self.signers.get(issuer).ok_or(SignError::NoIssuer)?;
        let key = AuthorityKey::generate().map_err(crypto)?;
        let leaf = signer.sign(&key, id, Some(sni), self.leaf_lifetime(), now)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_der().to_vec()));
        let signing = any_ecdsa_type(&der).map_err(|e| SignError::Crypto(e.to_string()))?;
        let chain = leaf.chain_der.into_iter().map(CertificateDer::from).collect();
        Ok(ServingLeaf { key: CertifiedKey::new(chain, signing), issuer: issuer.clone(), not_after: leaf.not_after })
    }
}

#[cfg(test)]
mod tests;
