//! Rotations of a Mesh's authorities, with everything that can go wrong between two writes.

use http::Method;
use k8s_openapi::api::core::v1::Secret;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::{
    server::Fault,
    world::{BUNDLE, MESH, SECRET, World},
};

const SOURCE: &str = "/api/v1/namespaces/bowline-system/secrets/bowline-issuer";

fn certificates(world: &World) -> Value {
    world.server.get(MESH).unwrap()["status"]["certificates"].clone()
}

fn root(world: &World) -> String {
    certificates(world)["roots"][0]["fingerprint"].as_str().unwrap().to_owned()
}

fn ask(world: &World, annotation: &str, text: &str) {
    world.change(MESH, |m| m["metadata"]["annotations"][annotation] = text.into());
}

/// Goes on until no rotation is under way; failures on the way are what the test ordered.
async fn until_steady(world: &World) -> usize {
    for round in 1..60 {
        let _ = world.round().await;
        let now = certificates(world);
        let steady = |list: &str| now[list].as_array().is_some_and(|l| l.len() == 1 && l[0]["phase"] == "Active");
        if round > 2 && steady("roots") && steady("issuers") && now["rotation"].is_null() {
            return round;
        }
    }
    panic!("it never ends: {}", certificates(world));
}

#[tokio::test]
async fn a_root_is_replaced_whatever_happens_to_the_writes() {
    for fault in [None, Some(Fault::LostAnswer), Some(Fault::Status(409)), Some(Fault::Status(500))] {
        let world = World::settled().await;
        let old = root(&world);
        if let Some(fault) = fault {
            world.server.fail(Method::PUT, "/secrets/bowline-ca", fault, 6);
            world.server.fail(Method::PATCH, "/configmaps/", Fault::Status(500), 2);
        }
        ask(&world, "bowline.dev/rotate-root", "1");
        // As long as every write fails, all is as steady as before.
        for _ in 0..5 {
            until_steady(&world).await;
        }
        assert_ne!(root(&world), old, "{fault:?}");
        let bundle = world.server.get(BUNDLE).unwrap()["data"]["bundle.pem"].as_str().unwrap().to_owned();
        assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 1, "{fault:?}");
        let info = world.server.get(BUNDLE).unwrap()["data"]["mesh.json"].as_str().unwrap().to_owned();
        let issuer = certificates(&world)["issuers"][0]["fingerprint"].as_str().unwrap().to_owned();
        assert!(info.contains(&issuer), "{info}");
        world.round().await.unwrap();
        let events = world.events();
        // Whose answer is lost is not told of.
        for told in ["are there, to replace", "is given to every workload", "signs", "it is gone", "is over"] {
            assert!(fault.is_some() || events.contains(told), "{told}: {events}");
        }
        world.server.writes();
        world.round().await.unwrap();
        assert_eq!(world.server.writes(), [""; 0], "the same text asks again");
    }
}

#[tokio::test]
async fn a_pod_that_is_not_heard_of_is_named_and_waited_for() {
    let world = World::settled().await;
    world.meshed_pod("shop", "web");
    let pod = "/api/v1/namespaces/shop/pods/web";
    world.change(pod, |p| {
        p["status"]["initContainerStatuses"] = json!([
            { "name": "bowline-a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} } }
        ]);
        p["metadata"]["uid"] = "uid-web".into();
    });
    let old = root(&world);
    ask(&world, "bowline.dev/rotate-root", "1");
    for _ in 0..12 {
        world.round().await.unwrap();
    }
    let rotation = certificates(&world)["rotation"].clone();
    assert_eq!((&rotation["phase"], &rotation["waitingProxies"]), (&json!("Distributed"), &json!(1)), "{rotation}");
    assert_eq!(rotation["waitingFor"], json!(["shop/web"]));
    assert!(!rotation["waitingUntil"].is_null());
    let (status, reason, message) = world.condition("default", "Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Rotating"), "{message}");
    assert_eq!(world.condition("default", "Ready").0, "True", "a rotation is no outage");
    // Aborted, it is as before.
    ask(&world, "bowline.dev/abort-rotation", "1");
    until_steady(&world).await;
    assert_eq!(root(&world), old);
}

#[tokio::test]
async fn a_pod_that_memory_has_not_heard_of_holds_an_irreversible_step() {
    let world = World::settled().await;
    ask(&world, "bowline.dev/rotate-root", "1");
    // In the list of the API server, and in no cache: a cache that lags behind.
    world.server.put(
        "/api/v1/pods/hidden",
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "hidden", "uid": "uid-hidden" } }),
    );
    for _ in 0..12 {
        world.round().await.unwrap();
    }
    assert_eq!(certificates(&world)["rotation"]["phase"], "Distributed", "{}", certificates(&world));
    world.server.remove("/api/v1/pods/hidden");
    until_steady(&world).await;
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A Secret with a new issuing CA below a root.
fn source(params: &CertificateParams, root_key: &KeyPair, root_pem: &str) -> Value {
    let key = KeyPair::generate().unwrap();
    let certificate = authority("issuer").signed_by(&key, &Issuer::from_params(params, root_key)).unwrap();
    let secret = Secret {
        string_data: None,
        data: Some(
            [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", root_pem.to_owned())]
                .map(|(k, v)| (k.to_owned(), k8s_openapi::ByteString(v.into_bytes())))
                .into(),
        ),
        ..Secret::default()
    };
    let mut object = serde_json::to_value(secret).unwrap();
    object["metadata"] = json!({ "name": "bowline-issuer", "namespace": "bowline-system" });
    object
}

#[tokio::test]
async fn a_namespace_that_cannot_be_written_is_named_and_holds_a_rotation_only_where_pods_may_start() {
    let world = World::settled().await;
    let old = root(&world);
    world.namespace("stuck", json!({ "bowline.dev/mesh": "default" }));
    world.round().await.unwrap();
    // It has an old bundle, which whoever starts there mounts.
    world.server.fail(Method::PATCH, "/namespaces/stuck/configmaps/", Fault::Status(500), 12);
    // It never got one, so nobody can start there.
    world.namespace("full", json!({ "bowline.dev/mesh": "default" }));
    world.server.fail(Method::PATCH, "/namespaces/full/configmaps/", Fault::Status(403), usize::MAX);
    ask(&world, "bowline.dev/rotate-root", "1");
    for _ in 0..10 {
        assert!(world.round().await.is_err());
    }
    let rotation = certificates(&world)["rotation"].clone();
    assert_eq!(rotation["waitingFor"], json!(["Namespace stuck"]), "{rotation}");
    assert!(rotation["message"].as_str().unwrap().contains("the bundle to reach 1 namespaces"), "{rotation}");
    assert!(rotation["waitingUntil"].is_string(), "{rotation}");
    until_steady(&world).await;
    assert_ne!(root(&world), old);
    assert_eq!(world.condition("default", "Degraded").1, "Forbidden", "the other one is still told");
}

#[tokio::test]
async fn a_source_is_awaited_judged_and_followed() {
    let world = World::settled().await;
    let built_in = root(&world);
    world.change(MESH, |m| m["spec"]["certificates"] = json!({ "source": { "secret": { "name": "bowline-issuer" } } }));
    world.round().await.unwrap();
    let (status, reason, message) = world.condition("default", "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "NoAuthorityOffered"));
    assert!(message.contains("bowline-system/bowline-issuer"), "{message}");
    assert_eq!((world.condition("default", "Ready").0, root(&world)), ("True".into(), built_in.clone()));

    let (params, key) = (authority("offline root"), KeyPair::generate().unwrap());
    let pem = params.self_signed(&key).unwrap().pem();
    world.server.put(SOURCE, source(&params, &key, &pem));
    until_steady(&world).await;
    let theirs = root(&world);
    assert_ne!(theirs, built_in);
    assert_eq!(certificates(&world)["source"], "Secret/bowline-issuer");
    assert_eq!(world.condition("default", "Degraded").0, "False");
    let held = world.server.get(SECRET).unwrap().to_string();
    assert!(!held.contains(&key.serialize_pem()), "the root's key is in the cluster");

    // A compromised root that only its source can replace is told, and nothing is lost meanwhile.
    ask(&world, "bowline.dev/distrust", &theirs);
    world.round().await.unwrap();
    let (status, _, message) = world.condition("default", "TrustAtRisk");
    assert!(status == "True" && message.contains("Secret/bowline-issuer"), "{message}");
    assert_eq!(root(&world), theirs);
    ask(&world, "bowline.dev/distrust", "");

    // Another issuing CA below the same root is a rotation of the issuing CA.
    let before = certificates(&world)["issuers"][0]["fingerprint"].clone();
    world.server.put(SOURCE, source(&params, &key, &pem));
    until_steady(&world).await;
    assert_ne!(certificates(&world)["issuers"][0]["fingerprint"], before);
    assert_eq!(root(&world), theirs);

    world.change(MESH, |m| m["spec"]["certificates"] = json!({}));
    until_steady(&world).await;
    assert_eq!(certificates(&world)["source"], "BuiltIn");
    assert_ne!(root(&world), theirs);
}
