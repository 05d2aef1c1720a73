use super::*;
use crate::identity::test_ca::{Ca, DOMAIN, leaf_params, now};

fn web() -> SpiffeId {
    SpiffeId::new(DOMAIN, "shop", "web").unwrap()
}

#[test]
fn a_good_leaf_is_taken() {
    let ca = Ca::new("a");
    let key = Key::generate().unwrap();
    let chain = ca.chain(&key, &leaf_params(&[web().as_str()]));
    let leaf = Leaf::check(&web(), key, chain, &ca.bundle(1), now()).unwrap();
    assert_eq!(leaf.issuer_sha256, <[u8; 32]>::from(Sha256::digest(ca.issuer_der())));
    assert!(leaf.not_after > now() && leaf.not_before < now());
    assert!(leaf.verifies(&ca.bundle(1), now()));
    assert!(!leaf.verifies(&Ca::new("b").bundle(2), now()));
    assert!(!leaf.verifies(&ca.bundle(1), now() + 200_000));
}

#[test]
fn a_root_that_signs_itself_is_the_issuer() {
    let ca = Ca::new("a");
    let key = Key::generate().unwrap();
    let chain = ca.short_chain(&key, &leaf_params(&[web().as_str()]));
    let leaf = Leaf::check(&web(), key, chain, &ca.bundle(1), now()).unwrap();
    assert_eq!(leaf.issuer_sha256, <[u8; 32]>::from(Sha256::digest(&ca.bundle(1).roots[0])));
}

#[test]
fn anything_else_is_refused() {
    let ca = Ca::new("a");
    let check = |uris: &[&str], change: &dyn Fn(&mut rcgen::CertificateParams), at: i64| {
        let key = Key::generate().unwrap();
        let mut params = leaf_params(uris);
        change(&mut params);
        let chain = ca.chain(&key, &params);
        Leaf::check(&web(), key, chain, &ca.bundle(1), at).unwrap_err()
    };
    let id = web();
    let own = [id.as_str()];
    let other = "spiffe://mesh.test/ns/shop/sa/api";
    assert!(matches!(check(&[], &|_| {}, now()), LeafError::Identity { .. }));
    assert!(matches!(check(&[other], &|_| {}, now()), LeafError::Identity { .. }));
    assert!(matches!(check(&[own[0], other], &|_| {}, now()), LeafError::Identity { .. }));
    assert!(matches!(check(&own, &|_| {}, now() - 7200), LeafError::Validity { .. }));
    assert!(matches!(check(&own, &|_| {}, now() + 90_000), LeafError::Validity { .. }));
    let authority =
        |p: &mut rcgen::CertificateParams| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    assert!(matches!(check(&own, &authority, now()), LeafError::Authority));

    let key = Key::generate().unwrap();
    let chain = ca.chain(&Key::generate().unwrap(), &leaf_params(&own));
    assert!(matches!(Leaf::check(&web(), key, chain, &ca.bundle(1), now()), Err(LeafError::Key)));
    let key = Key::generate().unwrap();
    let chain = Ca::new("b").chain(&key, &leaf_params(&own));
    assert!(matches!(Leaf::check(&web(), key, chain, &ca.bundle(1), now()), Err(LeafError::Untrusted { .. })));
    let key = Key::generate().unwrap();
    assert!(matches!(Leaf::check(&web(), key, vec![], &ca.bundle(1), now()), Err(LeafError::Chain(0))));
    let key = Key::generate().unwrap();
    let noise = vec![CertificateDer::from(vec![1, 2, 3])];
    assert!(matches!(
        Leaf::check(&web(), key, noise, &ca.bundle(1), now()),
        Err(LeafError::Malformed { index: 0, .. })
    ));
}
