//! What must hold whoever is asked when: every leaf that somebody holds verifies with every bundle that somebody holds.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use bowline_proxy::{
    contract::resource::Bundle,
    identity::{clock, leaf::Leaf},
};

use crate::fleet::Fleet;

/// Leaves, one for each issuing CA, and bundles, one for each sequence.
#[derive(Default)]
pub(super) struct Seen {
    leaves: BTreeMap<[u8; 32], Arc<Leaf>>,
    bundles: BTreeMap<u64, Arc<Bundle>>,
}

impl Seen {
    /// What the proxies hold now.
    #[must_use]
    pub(super) fn now(fleet: &Fleet) -> Self {
        let mut seen = Self::default();
        for proxy in fleet.all() {
            if let Some(leaf) = proxy.store.leaf() {
                seen.leaves.entry(leaf.issuer_sha256).or_insert(leaf);
            }
            if let Some(bundle) = proxy.store.bundle() {
                seen.bundles.entry(bundle.sequence).or_insert(bundle);
            }
        }
        seen
    }

    /// That every pair fits.
    ///
    /// # Errors
    /// Names the first pair that does not.
    pub(super) fn check(&self) -> Result<()> {
        let now = clock::unix_seconds();
        for leaf in self.leaves.values() {
            for bundle in self.bundles.values() {
                ensure!(
                    leaf.verifies(bundle, now),
                    "a leaf in use does not verify with bundle {}, which another proxy uses",
                    bundle.sequence
                );
            }
        }
        Ok(())
    }
}

/// That every proxy trusts `root` (DER) alone, and its leaf verifies with that.
///
/// # Errors
/// Says which proxy does not.
pub(super) fn ended(fleet: &Fleet, root: &[u8]) -> Result<()> {
    for (n, proxy) in fleet.all().iter().enumerate() {
        let leaf = proxy.store.leaf().with_context(|| format!("proxy {n} has no leaf"))?;
        let bundle = proxy.store.bundle().with_context(|| format!("proxy {n} has no bundle"))?;
        ensure!(bundle.roots.len() == 1 && bundle.roots[0] == root, "proxy {n} trusts more than the new root");
        ensure!(leaf.verifies(&bundle, clock::unix_seconds()), "the leaf of proxy {n} is not of the new root");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use bowline_operator::{
        ca::{
            MeshCa,
            issuance::issue,
            rotation::{
                policy::{AuthoritySource, Policy},
                write::Write,
            },
        },
        cluster::mesh::rotation::Requests,
    };
    use bowline_proxy::{
        contract::{spiffe::SpiffeId, validate::trust_bundle},
        identity::{csr, key::Key},
    };

    use super::*;

    /// A leaf and the bundle that covers it, of an authority of their own.
    fn pair(sequence: u64) -> (Arc<Leaf>, Arc<Bundle>) {
        let policy = Policy {
            mesh: "default".into(),
            trust_domain: "cluster.local".into(),
            root_lifetime: Duration::from_secs(86_400 * 365),
            issuer_lifetime: Duration::from_secs(86_400 * 30),
            leaf_lifetime: Duration::from_secs(86_400),
            after_percent: 50,
            requests: Requests::default(),
            distrust: Vec::new(),
            source: AuthoritySource::BuiltIn,
            published_sequence: 0,
        };
        let now = SystemTime::now();
        let ca = MeshCa::new(&issue::apply(None, &[Write::First], &policy, None, now).unwrap()).unwrap();
        let (id, key) = (SpiffeId::new("cluster.local", "bench", "bench").unwrap(), Key::generate().unwrap());
        let signed = ca.sign_leaf(&csr::request(&id, &key).unwrap(), &id, now).unwrap();
        let chain = signed.chain_der.into_iter().map(Into::into).collect();
        let bundle = Bundle { sequence, ..trust_bundle(ca.bundle.clone()).unwrap() };
        (Arc::new(Leaf::check(&id, key, chain, &bundle, clock::unix_seconds()).unwrap()), Arc::new(bundle))
    }

    #[test]
    fn a_leaf_that_another_proxy_cannot_verify_is_noticed() {
        let mut seen = Seen::default();
        let (leaf, bundle) = pair(1);
        seen.leaves.insert(leaf.issuer_sha256, leaf);
        seen.bundles.insert(1, bundle);
        seen.check().unwrap();
        seen.bundles.insert(2, pair(2).1);
        assert!(seen.check().unwrap_err().to_string().contains("bundle 2"));
    }
}
