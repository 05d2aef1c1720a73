use super::*;
use crate::identity::{
    key::Key,
    test_ca::{Ca, DOMAIN, leaf_params, now},
};

fn leaf(ca: &Ca, name: &str, bundle: &Bundle) -> Leaf {
    let id = SpiffeId::new(DOMAIN, "shop", name).unwrap();
    let key = Key::generate().unwrap();
    let chain = ca.chain(&key, &leaf_params(&[id.as_str()]));
    Leaf::check(&id, key, chain, bundle, now()).unwrap()
}

#[test]
fn leaf_and_bundle_are_published_together() {
    let (store, ca) = (Store::new(), Ca::new("a"));
    let mut watch = store.watch();
    assert!(store.current().is_none());
    store.install_leaf(leaf(&ca, "web", &ca.bundle(3)), ca.bundle(3)).unwrap();
    assert_eq!(*watch.borrow_and_update(), 1);
    let current = store.current().unwrap();
    assert_eq!((current.generation, current.bundle.sequence, current.id.service_account()), (1, 3, "web"));
    assert!(store.install_bundle(ca.bundle(4)).unwrap());
    assert_eq!(*watch.borrow_and_update(), 2);
    assert_eq!(store.current().unwrap().bundle.sequence, 4);
    assert_eq!(current.bundle.sequence, 3, "who holds the old one keeps it");
}

#[test]
fn the_highest_sequence_wins_wherever_it_comes_from() {
    let (store, ca) = (Store::new(), Ca::new("a"));
    assert!(store.install_bundle(ca.bundle(5)).unwrap(), "before the first leaf");
    let error = store.install_leaf(leaf(&ca, "web", &ca.bundle(3)), ca.bundle(3)).unwrap_err();
    assert!(matches!(error, StoreError::Overtaken { signed: 3, held: 5 }), "{error}");
    assert!(store.current().is_none(), "a leaf from before the bundle in use was taken");
    store.install_leaf(leaf(&ca, "web", &ca.bundle(5)), ca.bundle(5)).unwrap();
    assert_eq!(store.current().unwrap().bundle.sequence, 5);
    assert!(!store.install_bundle(ca.bundle(5)).unwrap());
    assert!(!store.install_bundle(ca.bundle(1)).unwrap());
    assert_eq!(store.current().unwrap().generation, 1);
}

#[test]
fn another_trust_domain_is_refused() {
    let (store, ca) = (Store::new(), Ca::new("a"));
    store.install_leaf(leaf(&ca, "web", &ca.bundle(1)), ca.bundle(1)).unwrap();
    let foreign = Bundle { trust_domain: "other.test".into(), ..ca.bundle(9) };
    assert!(matches!(store.install_bundle(foreign), Err(StoreError::Domain { sequence: 9, .. })));
    assert_eq!(store.current().unwrap().bundle.sequence, 1);
}

#[test]
fn a_bundle_without_roots_is_taken_and_trusts_nobody() {
    let (store, ca) = (Store::new(), Ca::new("a"));
    store.install_leaf(leaf(&ca, "web", &ca.bundle(1)), ca.bundle(1)).unwrap();
    assert!(store.install_bundle(Bundle { roots: vec![], ..ca.bundle(2) }).unwrap());
    assert!(store.current().unwrap().bundle.roots.is_empty());
}
