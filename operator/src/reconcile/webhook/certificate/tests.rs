use k8s_openapi::ByteString;

use super::*;
use crate::ca::testing::start;
use crate::serving::certificate::state::SECRET_KEY;

const HOST: &str = "bowline-webhook.bowline-system.svc";

fn secret(state: &ServingState) -> Secret {
    let data = [(SECRET_KEY.to_owned(), ByteString(serde_json::to_vec(state).unwrap()))];
    Secret { data: Some(data.into()), ..Secret::default() }
}

fn days(n: u64) -> SystemTime {
    start() + Duration::from_secs(n * 86_400)
}

/// A configuration that trusts these CAs.
fn trusting(cas: &[Authority]) -> InUse {
    InUse { published: cas.iter().map(|ca| ca.material.der().unwrap()).collect(), memory: None }
}

fn nothing() -> InUse {
    InUse::default()
}

fn ids(state: &ServingState) -> Vec<String> {
    state.cas.iter().map(|ca| ca.id.clone()).collect()
}

#[test]
fn a_new_ca_is_trusted_before_it_signs_and_an_old_one_goes_when_it_has_expired() {
    let (first, made) = next(None, &nothing(), HOST, 50, days(0)).unwrap();
    assert!(made);
    first.certified_key().unwrap().keys_match().unwrap();
    let trusted = ids(&first);
    let in_use = trusting(&first.cas);
    assert!(!next(Some(&secret(&first)), &in_use, HOST, 50, days(29)).unwrap().1);

    let (leaf, made) = next(Some(&secret(&first)), &in_use, HOST, 50, days(31)).unwrap();
    assert!(made && leaf.cas == first.cas && leaf.leaf != first.leaf);

    let (two, made) = next(Some(&secret(&leaf)), &in_use, HOST, 50, days(184)).unwrap();
    assert!(made);
    assert_eq!(two.cas.len(), 2);
    assert_eq!(two.leaf.root.as_ref(), Some(&trusted[0]), "signed by a CA that nobody trusts yet");
    assert_eq!(two.bundle_pem(days(184)).matches("BEGIN").count(), 2);

    let (swapped, made) = next(Some(&secret(&two)), &trusting(&two.cas), HOST, 50, days(184)).unwrap();
    assert!(made);
    assert_eq!(swapped.leaf.root.as_ref(), Some(&two.cas[1].id));
    assert!(!next(Some(&secret(&swapped)), &trusting(&two.cas), HOST, 50, days(184)).unwrap().1);

    let (one, _) = next(Some(&secret(&swapped)), &trusting(&two.cas), HOST, 50, days(366)).unwrap();
    assert!(!ids(&one).contains(&trusted[0]));
}

#[test]
fn what_cannot_be_used_is_made_anew() {
    let (state, _) = next(None, &nothing(), HOST, 50, days(0)).unwrap();
    let mut foreign = state.clone();
    foreign.leaf.material.key = next(None, &nothing(), HOST, 50, days(0)).unwrap().0.leaf.material.key;
    let garbage =
        Secret { data: Some([(SECRET_KEY.to_owned(), ByteString(b"{".to_vec()))].into()), ..Secret::default() };
    for damaged in [secret(&foreign), garbage, Secret::default()] {
        let (fresh, made) = next(Some(&damaged), &nothing(), HOST, 50, days(1)).unwrap();
        assert!(made && ids(&fresh) != ids(&state));
    }
    let (moved, made) = next(Some(&secret(&state)), &trusting(&state.cas), "other.ns.svc", 50, days(1)).unwrap();
    assert!(made && moved.cas == state.cas && moved.host == "other.ns.svc");
}

#[test]
fn certificates_are_replaced_at_the_share_of_life_that_is_asked_for() {
    let (state, _) = next(None, &nothing(), HOST, 50, days(0)).unwrap();
    assert!(!next(Some(&secret(&state)), &trusting(&state.cas), HOST, 80, days(47)).unwrap().1);
    let (renewed, made) = next(Some(&secret(&state)), &trusting(&state.cas), HOST, 10, days(7)).unwrap();
    assert!(made && renewed.leaf != state.leaf && renewed.cas == state.cas);
}

#[test]
fn what_is_lost_is_put_back_from_memory() {
    let (state, _) = next(None, &nothing(), HOST, 50, days(0)).unwrap();
    let in_use = InUse { memory: Some(Arc::new(state.clone())), ..trusting(&state.cas) };
    for lost in [None, Some(Secret::default())] {
        assert_eq!(next(lost.as_ref(), &in_use, HOST, 50, days(1)).unwrap(), (state.clone(), true));
    }
    // What the Secret holds counts for more.
    let (other, _) = next(None, &nothing(), HOST, 50, days(0)).unwrap();
    assert_eq!(next(Some(&secret(&other)), &in_use, HOST, 50, days(1)).unwrap().0.cas, other.cas);
    // What has expired is of no use.
    let (fresh, _) = next(None, &in_use, HOST, 50, days(400)).unwrap();
    assert!(!ids(&fresh).contains(&state.cas[0].id) && !fresh.untrusted);
}

#[test]
fn a_ca_in_the_place_of_a_lost_one_is_trusted_before_it_is_served() {
    let (lost, _) = next(None, &nothing(), HOST, 50, days(0)).unwrap();
    let (new, made) = next(None, &trusting(&lost.cas), HOST, 50, days(1)).unwrap();
    assert!(made && new.untrusted);
    assert_eq!(new.cas.len(), 2);
    assert_eq!((&new.cas[0].id, &new.leaf.root), (&lost.cas[0].id, &Some(new.cas[1].id.clone())));
    assert!(new.cas[0].material.key.is_none());
    assert_eq!(new.bundle_pem(days(1)).matches("BEGIN").count(), 2);
    assert_eq!(next(Some(&secret(&new)), &trusting(&lost.cas), HOST, 50, days(1)).unwrap(), (new.clone(), false));

    let (trusted, made) = next(Some(&secret(&new)), &trusting(&new.cas), HOST, 50, days(1)).unwrap();
    assert!(made && !trusted.untrusted);
    assert_eq!((&trusted.cas, &trusted.leaf), (&new.cas, &new.leaf));
    assert!(!next(Some(&secret(&trusted)), &trusting(&new.cas), HOST, 50, days(1)).unwrap().1);
    // The configuration went meanwhile: nobody trusts anything that could be lost.
    assert!(!next(Some(&secret(&new)), &nothing(), HOST, 50, days(1)).unwrap().0.untrusted);
}
