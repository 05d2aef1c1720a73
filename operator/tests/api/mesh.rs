//! A Mesh from its first reconcile to its end, with everything that can go wrong on the way.

use std::time::Duration;

use bowline_operator::ca::Authorities;
use http::Method;
use serde_json::{Value, json};

use crate::{
    server::Fault,
    world::{BUNDLE, MESH, SECRET, World, mesh},
};

#[tokio::test]
async fn from_nothing_to_ready_and_then_silent() {
    let world = World::new();
    world.round().await.expect("the finalizer");
    assert_eq!(world.server.writes(), [format!("PATCH {MESH}")]);
    world.round().await.expect("everything else");
    let writes = world.server.writes();
    for expected in
        ["POST /api/v1/namespaces/bowline-system/secrets", &format!("PATCH {BUNDLE}"), &format!("PATCH {MESH}/status")]
    {
        assert_eq!(writes.iter().filter(|w| *w == expected).count(), 1, "{expected} in {writes:?}");
    }
    assert_eq!(world.condition("default", "Ready").0, "True");
    assert_eq!(world.condition("default", "Available").0, "True");
    let bundle = world.server.get(BUNDLE).unwrap();
    assert!(bundle["data"]["bundle.pem"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let info: Value = serde_json::from_str(bundle["data"]["mesh.json"].as_str().unwrap()).unwrap();
    assert_eq!(info["controlAddress"], "bowline-control.bowline-system.svc.cluster.local.:15010");
    assert_eq!(info["controlIps"], json!(["10.96.0.7"]));
    assert_eq!(info["controlIdentity"], "spiffe://cluster.local/ns/bowline-system/sa/bowline-operator");
    assert!(!bundle.to_string().contains("PRIVATE"));
    assert!(world.events().contains("AuthorityCreated"), "{}", world.events());
    for _ in 0..3 {
        world.round().await.expect("nothing");
        assert_eq!(world.server.writes(), [""; 0]);
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_makes_no_second_root() {
    let world = World::new();
    world.round().await.unwrap();
    world.server.fail(Method::POST, "/secrets", Fault::LostAnswer, 1);
    let error = world.round().await.expect_err("the answer was lost").to_string();
    assert!(error.contains("bowline-ca"), "{error}");
    assert_eq!(world.condition("default", "Degraded").1, "ApiError");
    let written = world.server.get(SECRET).unwrap();
    world.round().await.unwrap();
    assert_eq!(world.server.get(SECRET).unwrap(), written);
    assert_eq!(world.condition("default", "Ready").0, "True");
}

#[tokio::test]
async fn conflicts_on_the_secret_are_resolved_by_reading_again() {
    let world = World::new();
    world.round().await.unwrap();
    world.server.fail(Method::POST, "/secrets", Fault::Status(409), 2);
    world.round().await.expect("resolved");
    assert_eq!(world.condition("default", "Ready").0, "True");
}

#[tokio::test]
async fn failures_are_told_and_heal() {
    let world = World::new();
    world.round().await.unwrap();
    world.server.fail(Method::PATCH, "/configmaps/", Fault::Status(500), 1);
    assert!(world.round().await.is_err());
    let (status, reason, message) = world.condition("default", "Reconciling");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "ApiError"));
    assert!(message.contains("ConfigMap shop/bowline-trust-default"), "{message}");
    assert_eq!(world.condition("default", "Stalled").0, "False");
    world.server.fail(Method::PATCH, "/configmaps/", Fault::Status(403), 1);
    assert!(world.round().await.is_err());
    assert_eq!(world.condition("default", "Degraded").1, "Forbidden");
    world.round().await.expect("healed");
    assert_eq!(world.condition("default", "Ready").0, "True");
    assert_eq!(world.condition("default", "Degraded").0, "False");
}

#[tokio::test]
async fn an_emptied_secret_is_put_back_from_memory() {
    for damage in [json!(null), json!({}), json!({ "default.json": "e30=" })] {
        let world = World::settled().await;
        let before = world.server.get(SECRET).unwrap()["data"].clone();
        world.change(SECRET, |s| s["data"] = damage.clone());
        world.look();
        world.round().await.expect("restored");
        assert_eq!(world.server.get(SECRET).unwrap()["data"], before, "{damage}");
        assert!(world.events().contains("CaStateRestored"), "{}", world.events());
        assert_eq!(world.condition("default", "Ready").0, "True");
    }
}

#[tokio::test]
async fn a_lost_secret_waits_for_a_person_and_never_gets_another_root_unasked() {
    let mut world = World::settled().await;
    world.server.remove(SECRET);
    world.memory = Authorities::new();
    world.round().await.expect("told");
    let (status, reason, message) = world.condition("default", "Stalled");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "CaStateLost"));
    let lost = world.server.get(MESH).unwrap()["status"]["certificates"]["roots"][0]["fingerprint"].clone();
    let lost = lost.as_str().unwrap();
    assert!(
        message.contains(&format!("bowline.dev/accept-new-root={lost}")) && message.contains("backup"),
        "{message}"
    );
    assert!(world.server.get(SECRET).is_none());
    assert!(world.server.get(BUNDLE).is_some(), "the bundle that workloads trust went away");
    let accept = |world: &World, text: &str| {
        world.change(MESH, |m| m["metadata"]["annotations"] = json!({ "bowline.dev/accept-new-root": text }));
    };
    accept(&world, "true");
    world.later = Duration::from_secs(60);
    world.round().await.expect("told");
    assert!(world.server.get(SECRET).is_none(), "whoever names no root accepted nothing");
    accept(&world, lost);
    world.round().await.expect("a new root");
    assert!(world.server.get(SECRET).is_some());
    let info = world.server.get(BUNDLE).unwrap()["data"]["mesh.json"].as_str().unwrap().to_owned();
    assert!(info.contains(r#""bundleSequence":2"#), "{info}");
    assert_eq!(world.condition("default", "Ready").0, "True");

    // The annotation is still there, and says nothing about the root that came after.
    world.server.remove(SECRET);
    world.memory = Authorities::new();
    for later in [60, 120] {
        world.later = Duration::from_secs(later);
        world.round().await.expect("told");
        assert_eq!(world.condition("default", "Stalled").1, "CaStateLost");
        assert!(world.server.get(SECRET).is_none(), "a new root was made unasked");
    }
}

#[tokio::test]
async fn a_lost_root_is_known_by_the_bundles_that_are_mounted() {
    let mut world = World::settled().await;
    let lost = world.server.get(MESH).unwrap()["status"]["certificates"]["roots"][0]["fingerprint"].clone();
    world.server.remove(SECRET);
    world.memory = Authorities::new();
    let told = |world: &World| world.condition("default", "Stalled").2;
    world.change(MESH, |m| m["status"] = json!({ "conditions": [] }));
    world.round().await.expect("told");
    assert!(told(&world).contains(&format!("accept-new-root={}", lost.as_str().unwrap())), "{}", told(&world));
    // Its number is all that is left of it.
    world.change(BUNDLE, |m| m["data"]["bundle.pem"] = "".into());
    world.change(MESH, |m| m["status"] = json!({ "conditions": [] }));
    world.round().await.expect("told");
    assert!(told(&world).contains("accept-new-root=sequence-1"), "{}", told(&world));
    world.change(MESH, |m| m["metadata"]["annotations"] = json!({ "bowline.dev/accept-new-root": "sequence-1" }));
    world.later = Duration::from_secs(60);
    world.round().await.expect("a new root");
    assert!(world.server.get(SECRET).is_some());
}

#[tokio::test]
async fn a_replica_that_remembers_the_state_has_its_time_before_a_new_root_is_made() {
    let mut world = World::settled().await;
    let lost = world.server.get(MESH).unwrap()["status"]["certificates"]["roots"][0]["fingerprint"].clone();
    world.change(MESH, |m| m["metadata"]["annotations"] = json!({ "bowline.dev/accept-new-root": lost }));
    world.server.remove(SECRET);
    world.memory = Authorities::new();
    for seconds in [0, 5, 14] {
        world.later = Duration::from_secs(seconds);
        world.round().await.expect("told");
        assert!(world.server.get(SECRET).is_none(), "after {seconds} seconds");
    }
    world.later = Duration::from_secs(16);
    world.round().await.expect("a new root");
    assert!(world.server.get(SECRET).is_some());
}

#[tokio::test]
async fn an_edited_bundle_is_put_back_and_told() {
    let world = World::settled().await;
    let before = world.server.get(BUNDLE).unwrap()["data"].clone();
    world.change(BUNDLE, |m| {
        m["data"]["bundle.pem"] = "mine".into();
        m["data"]["more"] = "x".into();
        m["metadata"]["labels"]["team"] = "shop".into();
    });
    world.round().await.expect("repaired");
    let after = world.server.get(BUNDLE).unwrap();
    assert_eq!(after["data"], before);
    assert_eq!(after["metadata"]["labels"]["team"], "shop", "a label that is not ours went away");
    assert!(world.events().contains("ConfigMap shop/bowline-trust-default"), "{}", world.events());
    world.server.writes();
    world.round().await.unwrap();
    assert_eq!(world.server.writes(), [""; 0]);
}

#[tokio::test]
async fn a_bundle_leaves_with_the_last_meshed_pod() {
    let world = World::settled().await;
    world.meshed_pod("shop", "web");
    world.namespace("shop", json!({}));
    world.round().await.unwrap();
    assert!(world.server.get(BUNDLE).is_some(), "a pod lost the bundle that it mounts");
    world.server.remove("/api/v1/namespaces/shop/pods/web");
    world.round().await.unwrap();
    assert!(world.server.get(BUNDLE).is_none());
}

#[tokio::test]
async fn deletion_is_held_by_workloads_and_then_removes_everything() {
    let world = World::settled().await;
    let configuration = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/bowline-inject";
    world.server.put(configuration, json!({ "metadata": { "name": "bowline-inject" }, "webhooks": [] }));
    world.meshed_pod("shop", "web");
    world.change(MESH, |m| m["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    world.round().await.unwrap();
    let (status, reason, message) = world.condition("default", "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "WorkloadsPresent"));
    assert!(message.contains("shop/web") && message.contains("bowline.dev/force-delete=true"), "{message}");
    assert!(world.server.get(BUNDLE).is_some() && world.server.get(configuration).is_some());

    // Whoever is still in it is cared for as before.
    world.server.remove(BUNDLE);
    world.round().await.unwrap();
    assert!(world.server.get(BUNDLE).is_some(), "a deletion that is held took the bundle away");
    assert_eq!(world.condition("default", "Ready").1, "WorkloadsPresent");

    assert_eq!(world.restorer().lost(), [""; 0]);
    world.memory.observe(None);
    assert_eq!(world.restorer().lost(), ["default"], "no replica would put the CA's state back");
    world.look();

    world.server.remove("/api/v1/namespaces/shop/pods/web");
    world.memory.observe(None);
    assert_eq!(world.restorer().lost(), [""; 0], "what goes is put back");
    world.look();
    world.server.fail(Method::DELETE, "/configmaps/", Fault::Status(500), 1);
    assert!(world.round().await.is_err());
    assert_eq!(world.server.get(MESH).unwrap()["metadata"]["finalizers"], json!(["bowline.dev/mesh"]));
    world.round().await.expect("gone");
    assert!(world.server.get(BUNDLE).is_none() && world.server.get(configuration).is_none());
    assert_eq!(world.server.get(SECRET).unwrap()["data"], json!({}));
    assert_eq!(world.server.get(MESH).unwrap()["metadata"]["finalizers"], json!([]));
}

#[tokio::test]
async fn deletion_can_be_forced() {
    let world = World::settled().await;
    world.meshed_pod("shop", "web");
    world.change(MESH, |m| {
        m["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        m["metadata"]["annotations"] = json!({ "bowline.dev/force-delete": "true" });
    });
    world.round().await.expect("gone");
    assert!(world.server.get(BUNDLE).is_none());
    assert_eq!(world.server.get(MESH).unwrap()["metadata"]["finalizers"], json!([]));
}

const CERTIFICATE: &str = "/apis/cert-manager.io/v1/namespaces/bowline-system/certificates/bowline-issuer";

#[tokio::test]
async fn two_meshes_do_not_fight_over_one_certificate() {
    let world = World::new();
    let source = json!({ "certificates": { "source": { "certManager": { "issuerRef": { "name": "root" } } } } });
    world.change(MESH, |m| m["spec"] = source.clone());
    world.server.put("/apis/bowline.dev/v1alpha1/meshes/other", mesh("other", source));
    let round = async |name: &str| {
        let _no_offer_yet = world.round_of(name).await;
        world.server.writes()
    };
    let of_certificate = |writes: &[String]| writes.iter().filter(|w| w.ends_with(CERTIFICATE)).count();
    for mesh in ["default", "other"] {
        round(mesh).await;
    }
    assert_eq!(of_certificate(&round("default").await), 1);
    let made = world.server.get(CERTIFICATE).unwrap();
    assert_eq!(made["spec"]["commonName"], "default issuer");
    // cert-manager and others add what they like.
    world.change(CERTIFICATE, |c| {
        c["spec"]["issuerRef"]["note"] = "mine".into();
        c["metadata"]["labels"]["team"] = "a".into();
        c["status"] = json!({ "revision": 1 });
    });
    for mesh in ["other", "default", "other", "default"] {
        assert_eq!(of_certificate(&round(mesh).await), 0, "{mesh} wrote although nothing was to be done");
    }
    let (stalled, reason, message) = world.condition("other", "Stalled");
    assert_eq!((stalled.as_str(), reason.as_str()), ("True", "NoAuthorityOffered"));
    assert!(message.contains("belongs to Mesh default") && message.contains("secretName"), "{message}");

    // What differs is put right, by its owner.
    world.change(CERTIFICATE, |c| c["spec"]["isCA"] = false.into());
    assert_eq!(of_certificate(&round("other").await), 0);
    assert_eq!(of_certificate(&round("default").await), 1);
    assert_eq!(world.server.get(CERTIFICATE).unwrap()["spec"]["isCA"], true);

    // Whoever has to do without it does not take it away.
    let other = "/apis/bowline.dev/v1alpha1/meshes/other";
    world.change(other, |m| {
        m["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        m["status"]["certificates"] = json!({ "source": "CertManager/bowline-issuer", "bundleSequence": 0 });
    });
    round("other").await;
    assert!(world.server.get(CERTIFICATE).is_some());
    assert_eq!(world.server.get(other).unwrap()["metadata"]["finalizers"], json!([]));
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_left_alone() {
    let world = World::new();
    world.change(MESH, |m| {
        m["spec"] = json!({ "certificates": { "source": { "certManager": { "issuerRef": { "name": "root" } } } } });
    });
    let theirs = json!({ "apiVersion": "cert-manager.io/v1", "kind": "Certificate", "spec": { "secretName": "x" },
                         "metadata": { "name": "bowline-issuer", "namespace": "bowline-system" } });
    world.server.put(CERTIFICATE, theirs);
    let before = world.server.get(CERTIFICATE).unwrap();
    for _ in 0..3 {
        world.round().await.expect("told");
    }
    assert_eq!(world.server.get(CERTIFICATE).unwrap(), before);
    let message = world.condition("default", "Stalled").2;
    assert!(message.contains("somebody else") && message.contains("delete that Certificate"), "{message}");
    // Deleted as the message says: the operator makes its own at once.
    world.server.remove(CERTIFICATE);
    let _no_offer_yet = world.round().await;
    assert_eq!(world.server.get(CERTIFICATE).unwrap()["spec"]["commonName"], "default issuer");
}
