//! What a proxy does when its mesh changes issuers and roots.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bowline_proxy::contract::proto::{MtlsMode, Resource, ResourceType, TrustBundle};

use crate::{
    ack,
    fake::{self, Ca, OPERATOR, Stream, World, resource},
    policy, report,
};

/// Old and new authority of the mesh, and a control plane that both are known to.
async fn world() -> (Arc<Ca>, Arc<Ca>, World) {
    let (old, new) = (Arc::new(Ca::new("old")), Arc::new(Ca::new("new")));
    let world = World::with(Arc::clone(&old), &old, OPERATOR).await;
    world.serve_as(&old, &[&old, &new]);
    world.generation(1).await;
    (old, new, world)
}

/// A bundle that wishes for leaves of `wanted` at once.
fn wish(cas: &[&Ca], sequence: u64, wanted: &[&Ca]) -> Resource {
    let issuers_sha256 = wanted.iter().map(|ca| ca.issuer_sha256().to_vec()).collect();
    let body = TrustBundle { issuers_sha256, ..fake::bundle(cas, sequence) };
    resource(ResourceType::TrustBundle, "", sequence, &body)
}

fn issuer(world: &World) -> [u8; 32] {
    world.store.current().unwrap().issuer_sha256
}

/// The control plane signs as `ca` from now on, with the bundle of this sequence.
fn sign_as(world: &World, ca: &Arc<Ca>, sequence: u64) {
    let mut signing = world.signing.lock().unwrap();
    signing.ca = Arc::clone(ca);
    signing.sequence = sequence;
}

fn asked(world: &World) -> usize {
    world.asked.lock().unwrap().len()
}

/// Waits for a report with this issuer.
async fn reports(stream: &mut Stream, ca: &Ca) -> u64 {
    stream.find(|m| report(m).filter(|r| r.issuer_sha256 == ca.issuer_sha256()).map(|r| r.bundle_sequence)).await
}

#[tokio::test]
async fn a_wish_of_the_stream_is_followed_and_reported() {
    let (old, new, mut world) = world().await;
    let mut stream = world.stream().await;
    assert_eq!(reports(&mut stream, &old).await, 1);
    sign_as(&world, &new, 5);
    stream.send(vec![wish(&[&old, &new], 5, &[&new])]).await;
    assert_eq!(reports(&mut stream, &new).await, 5);
    assert_eq!(asked(&world), 2);
    // A new stream begins with it too.
    drop(stream);
    assert_eq!(reports(&mut world.stream().await, &new).await, 5);
}

#[tokio::test]
async fn a_wish_of_the_mounted_bundle_is_followed() {
    let (old, new, world) = world().await;
    sign_as(&world, &new, 5);
    world.mount_wish(&[&old, &new], 5, &[&new]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    world.until("the other issuer", |w| issuer(w) == new.issuer_sha256()).await;
}

#[tokio::test]
async fn a_wish_that_was_overtaken_is_ignored() {
    let (old, new, mut world) = world().await;
    let mut stream = world.stream().await;
    stream.send(vec![wish(&[&old, &new], 5, &[])]).await;
    stream.send(vec![wish(&[&old, &new], 4, &[&new])]).await;
    stream.send(vec![policy(6, MtlsMode::Strict)]).await;
    for _ in 0..3 {
        assert_eq!(stream.find(ack).await.rejected, []);
    }
    // Whoever did follow it would have asked before this renewal.
    sign_as(&world, &new, 7);
    stream.send(vec![wish(&[&old, &new], 7, &[&new])]).await;
    reports(&mut stream, &new).await;
    assert_eq!(asked(&world), 2);
}

#[tokio::test]
async fn while_a_replica_lags_behind_the_leaf_serves_and_another_is_asked_for() {
    let (old, new, mut world) = world().await;
    let mut stream = world.stream().await;
    stream.send(vec![wish(&[&old, &new], 5, &[&new])]).await;
    world.until("asked again and again", |w| asked(w) >= 4).await;
    assert_eq!(issuer(&world), old.issuer_sha256());
    assert_eq!((world.health.identity.error(), world.health.identity.failures()), (None, 0));
    sign_as(&world, &new, 5);
    assert_eq!(reports(&mut stream, &new).await, 5);
}

#[tokio::test]
async fn a_leaf_of_a_wanted_issuer_is_not_given_up_for_one_of_an_unwanted() {
    // Where the machine stands still until the leaf has expired, nothing was learnt: any other is better then.
    for _ in 0..5 {
        let (old, new, mut world) = world().await;
        let mut stream = world.stream().await;
        {
            let mut signing = world.signing.lock().unwrap();
            signing.ca = Arc::clone(&new);
            signing.sequence = 5;
            signing.life = Duration::from_secs(8);
        }
        stream.send(vec![wish(&[&old, &new], 5, &[&new])]).await;
        reports(&mut stream, &new).await;
        sign_as(&world, &old, 5);
        let (before, expires) = (asked(&world), world.store.current().unwrap().not_after);
        // The second is asked for when the first was judged.
        world.until("asked at half of its life, and again", |w| asked(w) >= before + 2).await;
        let used = issuer(&world);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        if now < expires.unsigned_abs() {
            assert_eq!(used, new.issuer_sha256());
            assert_eq!(world.health.identity.error(), None);
            return;
        }
    }
    panic!("it was never asked again before its leaf expired");
}

#[tokio::test]
async fn a_stream_whose_server_lost_trust_is_opened_anew_with_all_that_is_known() {
    let (old, new, mut world) = world().await;
    let mut stream = world.stream().await;
    stream.send(vec![policy(6, MtlsMode::Strict)]).await;
    stream.find(ack).await;
    sign_as(&world, &new, 4);
    stream.send(vec![wish(&[&old, &new], 4, &[&new])]).await;
    reports(&mut stream, &new).await;
    world.serve_as(&new, &[&old, &new]);
    stream.send(vec![wish(&[&new], 5, &[&new])]).await;
    let mut next = world.stream().await;
    assert!(next.hello.known.iter().any(|k| k.r#type == i32::from(ResourceType::InboundPolicy) && k.version == 6));
    assert_eq!(reports(&mut next, &new).await, 5);
}

#[tokio::test]
async fn a_stream_that_was_opened_with_a_leaf_that_lost_trust_is_opened_anew() {
    let (old, new, server) = (Arc::new(Ca::new("old")), Arc::new(Ca::new("new")), Ca::new("server"));
    let mut world = World::with(Arc::clone(&old), &server, OPERATOR).await;
    world.mount(&[&old, &server], 1);
    let mut stream = world.stream().await;
    reports(&mut stream, &old).await;
    world.serve_as(&server, &[&new]);
    sign_as(&world, &new, 5);
    stream.send(vec![wish(&[&new, &server], 5, &[&new])]).await;
    let mut next = world.stream().await;
    assert!(next.authenticated);
    assert_eq!(reports(&mut next, &new).await, 5);
}
