use k8s_openapi::ByteString;

use super::*;
use crate::ca::testing::start;

const HOST: &str = "bowline-webhook.bowline-system.svc";

fn secret(state: &ServingState) -> Secret {
    let data = [(SECRET_KEY.to_owned(), ByteString(serde_json::to_vec(state).unwrap()))];
    Secret { data: Some(data.into()), ..Secret::default() }
}

fn days(n: u64) -> SystemTime {
    start() + Duration::from_secs(n * 86_400)
}

fn ids(state: &ServingState) -> Vec<String> {
    state.cas.iter().map(|ca| ca.id.clone()).collect()
}

#[test]
fn a_new_ca_is_trusted_before_it_signs_and_an_old_one_goes_when_it_has_expired() {
    let (first, made) = next(None, &[], HOST, days(0)).unwrap();
    assert!(made);
    first.certified_key().unwrap().keys_match().unwrap();
    let trusted = ids(&first);
    assert!(!next(Some(&secret(&first)), &trusted, HOST, days(29)).unwrap().1);

    let (leaf, made) = next(Some(&secret(&first)), &trusted, HOST, days(31)).unwrap();
    assert!(made && leaf.cas == first.cas && leaf.leaf != first.leaf);

    let (two, made) = next(Some(&secret(&leaf)), &trusted, HOST, days(184)).unwrap();
    assert!(made);
    assert_eq!(two.cas.len(), 2);
    assert_eq!(two.leaf.root.as_ref(), Some(&trusted[0]), "signed by a CA that nobody trusts yet");
    assert_eq!(two.bundle_pem(days(184)).matches("BEGIN").count(), 2);

    let (swapped, made) = next(Some(&secret(&two)), &ids(&two), HOST, days(184)).unwrap();
    assert!(made);
    assert_eq!(swapped.leaf.root.as_ref(), Some(&two.cas[1].id));
    assert!(!next(Some(&secret(&swapped)), &ids(&two), HOST, days(184)).unwrap().1);

    let (one, _) = next(Some(&secret(&swapped)), &ids(&two), HOST, days(366)).unwrap();
    assert!(!ids(&one).contains(&trusted[0]));
}

#[test]
fn what_cannot_be_used_is_made_anew() {
    let (state, _) = next(None, &[], HOST, days(0)).unwrap();
    let mut foreign = state.clone();
    foreign.leaf.material.key = next(None, &[], HOST, days(0)).unwrap().0.leaf.material.key;
    let garbage =
        Secret { data: Some([(SECRET_KEY.to_owned(), ByteString(b"{".to_vec()))].into()), ..Secret::default() };
    for damaged in [secret(&foreign), garbage, Secret::default()] {
        let (fresh, made) = next(Some(&damaged), &[], HOST, days(1)).unwrap();
        assert!(made && ids(&fresh) != ids(&state));
    }
    let (moved, made) = next(Some(&secret(&state)), &ids(&state), "other.ns.svc", days(1)).unwrap();
    assert!(made && moved.cas == state.cas && moved.host == "other.ns.svc");
}
