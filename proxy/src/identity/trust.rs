//! Whether a connection between two proxies may still be trusted: both ends' chains were verified in its handshake, and
//! roots are dropped later.
//!
//! A root that an ordinary rotation dropped ends nothing: the connection takes nothing new and finishes what it carries, however
//! long that takes. One whose key is compromised proves nothing, and connections that depend on it are cut off.

use std::{sync::Arc, time::Duration};

use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::{
    contract::resource::Bundle,
    identity::{
        store::{Current, Store},
        tls,
    },
};

/// How long a connection that depends on a revoked root may finish what it carries: a request that is under way is nobody's attack, and
/// another connection takes the next one.
pub(crate) const REVOKED_GRACE: Duration = Duration::from_secs(1);

/// Why a connection is no longer trusted: what became of the root on which it depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Untrusted {
    /// An ordinary rotation dropped it: the connection finishes what it carries.
    Dropped,
    /// Its key is compromised: the connection is cut off after [`REVOKED_GRACE`].
    Revoked,
}

/// Watches whether the chains of both ends of a connection are still trusted.
pub(crate) struct TrustWatch {
    store: Arc<Store>,
    changes: watch::Receiver<u64>,
    peer: Vec<CertificateDer<'static>>,
    own: Arc<Vec<CertificateDer<'static>>>,
    /// The bundle of the handshake: names the root of a chain that is no longer trusted.
    bundle: Arc<Bundle>,
    made: UnixTime,
    /// What was judged last.
    seen: Arc<Current>,
    dropped: bool,
}

impl TrustWatch {
    /// For a connection whose handshake was made with `current`, to a peer that presented `peer`.
    pub(crate) fn new(store: &Arc<Store>, current: &Arc<Current>, peer: &[CertificateDer<'_>]) -> Self {
        Self {
            changes: store.watch(),
            store: Arc::clone(store),
            peer: peer.iter().map(|c| c.clone().into_owned()).collect(),
            own: Arc::clone(&current.chain),
            bundle: Arc::clone(&current.bundle),
            made: UnixTime::now(),
            seen: Arc::clone(current),
            dropped: false,
        }
    }

    /// Waits until trust is lost; after [`Untrusted::Dropped`] only [`Untrusted::Revoked`] follows.
    pub(crate) async fn lost(&mut self) -> Untrusted {
        loop {
            let lost = self.check();
            if lost == Some(Untrusted::Revoked) || (lost == Some(Untrusted::Dropped) && !self.dropped) {
                self.dropped = true;
                return lost.unwrap_or(Untrusted::Revoked);
            }
            if self.changes.changed().await.is_err() {
                // Nobody publishes any more: what is trusted stays so.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the connection is to be cut off.
    pub(crate) async fn revoked(&mut self) {
        while self.lost().await != Untrusted::Revoked {}
    }

    /// Judges what changed since the last check.
    fn check(&mut self) -> Option<Untrusted> {
        let current = self.store.current()?;
        let seen = std::mem::replace(&mut self.seen, Arc::clone(&current));
        let (old, new) = (&seen.bundle, &current.bundle);
        if old.roots == new.roots && old.revoked == new.revoked && seen.chain == current.chain {
            return None;
        }
        let peer = judge(&self.peer, &self.bundle, new, self.made);
        let own = judge(&self.own, &self.bundle, new, self.made);
        // Without a better leaf another connection would prove no more than this one.
        let better = || current.chain != self.own && tls::still_trusted(&current.chain, &new.roots, UnixTime::now());
        peer.max(own.filter(|lost| *lost == Untrusted::Revoked || better()))
    }
}

/// As [`TrustWatch::lost`]; a connection in plain depends on no root and never loses trust.
pub(crate) async fn lost(watch: &mut Option<TrustWatch>) -> Untrusted {
    match watch {
        Some(watch) => watch.lost().await,
        None => std::future::pending().await,
    }
}

/// As [`TrustWatch::revoked`].
pub(crate) async fn revoked(watch: &mut Option<TrustWatch>) {
    match watch {
        Some(watch) => watch.revoked().await,
        None => std::future::pending().await,
    }
}

/// What became of a chain that `then` verified at `made`, now that `now` is trusted.
fn judge(chain: &[CertificateDer<'_>], then: &Bundle, now: &Bundle, made: UnixTime) -> Option<Untrusted> {
    if tls::still_trusted(chain, &now.roots, made) {
        return None;
    }
    if now.revoked.is_empty() {
        return Some(Untrusted::Dropped);
    }
    // The chain does not hold its root: it is whichever of those trusted then verifies it. One key may have several certificates.
    let mut roots = then.roots.iter().filter(|r| tls::still_trusted(chain, std::slice::from_ref(*r), made)).peekable();
    let unknown = roots.peek().is_none();
    let revoked = roots.any(|root| now.revoked.contains(&Sha256::digest(root).into()));
    Some(if unknown || revoked { Untrusted::Revoked } else { Untrusted::Dropped })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        contract::spiffe::SpiffeId,
        identity::{
            key::Key,
            leaf::Leaf,
            test_ca::{Ca, DOMAIN, leaf_params, now},
        },
    };

    fn chain(ca: &Ca) -> Vec<CertificateDer<'static>> {
        ca.chain(&Key::generate().unwrap(), &leaf_params(&["spiffe://mesh.test/ns/shop/sa/api"]))
    }

    fn bundle(sequence: u64, trusted: &[&Ca], revoked: &[&Ca]) -> Bundle {
        let roots = trusted.iter().flat_map(|ca| ca.bundle(1).roots).collect();
        let revoked = revoked.iter().flat_map(|ca| ca.bundle(1).roots).map(|r| Sha256::digest(r).into()).collect();
        Bundle { trust_domain: DOMAIN.into(), sequence, roots, revoked, ..Bundle::default() }
    }

    #[test]
    fn only_a_chain_of_a_revoked_root_is_revoked() {
        let (a, b, c) = (Ca::new("a"), Ca::new("b"), Ca::new("c"));
        let both = bundle(1, &[&a, &b], &[]);
        let of_a = chain(&a);
        let judged = |now: &Bundle| judge(&of_a, &both, now, UnixTime::now());
        assert_eq!(judged(&bundle(2, &[&a, &b], &[])), None);
        assert_eq!(judged(&bundle(2, &[&b], &[])), Some(Untrusted::Dropped));
        assert_eq!(judged(&bundle(2, &[&b], &[&c])), Some(Untrusted::Dropped));
        assert_eq!(judged(&bundle(2, &[&b], &[&a])), Some(Untrusted::Revoked));
        assert_eq!(judged(&bundle(2, &[], &[])), Some(Untrusted::Dropped));
        // Nobody knows whose it is.
        let alone = bundle(1, &[&b], &[]);
        assert_eq!(judge(&of_a, &alone, &bundle(2, &[&b], &[&c]), UnixTime::now()), Some(Untrusted::Revoked));
    }

    fn install(store: &Store, ca: &Ca, bundle: &Bundle) {
        let id = SpiffeId::new(DOMAIN, "shop", "web").unwrap();
        let key = Key::generate().unwrap();
        let chain = ca.chain(&key, &leaf_params(&[id.as_str()]));
        store.install_leaf(Leaf::check(&id, key, chain, bundle, now()).unwrap(), bundle.clone()).unwrap();
    }

    async fn soon(watch: &mut TrustWatch) -> Option<Untrusted> {
        tokio::time::timeout(Duration::from_secs(5), watch.lost()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_root_of_the_peer_is_told_once_and_may_still_be_revoked() {
        let (a, b, store) = (Ca::new("a"), Ca::new("b"), Store::new());
        install(&store, &b, &bundle(1, &[&a, &b], &[]));
        let mut watch = TrustWatch::new(&store, &store.current().unwrap(), &chain(&a));
        assert_eq!(soon(&mut watch).await, None);
        store.install_bundle(bundle(2, &[&b], &[])).unwrap();
        assert_eq!(soon(&mut watch).await, Some(Untrusted::Dropped));
        install(&store, &b, &bundle(3, &[&b], &[]));
        assert_eq!(soon(&mut watch).await, None);
        store.install_bundle(bundle(4, &[&b], &[&a])).unwrap();
        assert_eq!(soon(&mut watch).await, Some(Untrusted::Revoked));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_own_root_is_gone_is_replaced_when_there_is_a_better_leaf() {
        let (a, b, store) = (Ca::new("a"), Ca::new("b"), Store::new());
        install(&store, &a, &bundle(1, &[&a, &b], &[]));
        let mut watch = TrustWatch::new(&store, &store.current().unwrap(), &chain(&b));
        store.install_bundle(bundle(2, &[&b], &[])).unwrap();
        assert_eq!(soon(&mut watch).await, None, "a new connection would present the same leaf");
        install(&store, &b, &bundle(2, &[&b], &[]));
        assert_eq!(soon(&mut watch).await, Some(Untrusted::Dropped));
    }

    #[tokio::test(start_paused = true)]
    async fn what_changed_during_the_handshake_is_noticed() {
        let (a, b, store) = (Ca::new("a"), Ca::new("b"), Store::new());
        install(&store, &b, &bundle(1, &[&a, &b], &[]));
        let current = store.current().unwrap();
        store.install_bundle(bundle(2, &[&b], &[])).unwrap();
        let mut watch = TrustWatch::new(&store, &current, &chain(&a));
        assert_eq!(soon(&mut watch).await, Some(Untrusted::Dropped));
    }
}
