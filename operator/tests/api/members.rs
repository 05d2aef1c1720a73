//! Which namespaces a Mesh has, and what it writes into them.

use http::Method;
use serde_json::{Value, json};

use crate::{
    server::Fault,
    world::{BUNDLE, MESH, World, mesh},
};

const RIVAL: &str = "/apis/bowline.dev/v1alpha1/meshes/rival";

fn bundle(namespace: &str, mesh: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/bowline-trust-{mesh}")
}

fn created(mut mesh: Value, year: u32) -> Value {
    mesh["metadata"]["creationTimestamp"] = format!("{year}-01-01T00:00:00Z").into();
    mesh
}

fn condition(world: &World, mesh: &str, kind: &str) -> (String, String) {
    let (status, reason, _) = world.condition(mesh, kind);
    (status, reason)
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}

#[tokio::test]
async fn a_broad_selector_takes_no_namespace_that_is_labelled_and_says_what_it_did_not_get() {
    let world = World::settled().await;
    world.server.put(RIVAL, created(mesh("rival", json!({ "injection": { "namespaceSelector": {} } })), 2020));
    for _ in 0..2 {
        world.round().await.unwrap();
        world.round_of("rival").await.unwrap();
    }
    // The one that is labelled for keeps it, and has nothing to do about it.
    for (kind, expected) in [("Ready", is("True", "Reconciled")), ("Degraded", is("False", "AsExpected"))] {
        assert_eq!(condition(&world, "default", kind), expected);
    }
    assert!(world.server.get(BUNDLE).is_some() && world.server.get(&bundle("shop", "rival")).is_none());
    // The other one got the rest, works, and tells.
    assert!(world.server.get(&bundle("other", "rival")).is_some());
    assert_eq!(condition(&world, "rival", "Ready"), is("True", "Reconciled"));
    assert_eq!(condition(&world, "rival", "Stalled"), is("False", "AsExpected"));
    let (status, reason, message) = world.condition("rival", "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "NamespaceConflict"));
    for word in ["namespace shop", "Mesh default", "DoesNotExist"] {
        assert!(message.contains(word), "{message}");
    }
    assert!(world.events().contains("NamespaceConflict"), "{}", world.events());
    // The remedy is one.
    let except = json!({ "matchExpressions": [{ "key": "bowline.dev/mesh", "operator": "DoesNotExist" }] });
    world.change(RIVAL, |m| m["spec"]["injection"]["namespaceSelector"] = except);
    world.round_of("rival").await.unwrap();
    assert_eq!(condition(&world, "rival", "Degraded"), is("False", "AsExpected"));
}

#[tokio::test]
async fn of_two_selectors_the_older_mesh_has_the_namespace_and_the_younger_stalls() {
    let world = World::settled().await;
    let red = json!({ "injection": { "namespaceSelector": { "matchLabels": { "team": "red" } } } });
    world.namespace("red", json!({ "team": "red" }));
    world.change(MESH, |m| {
        m["spec"] = red.clone();
        *m = created(m.clone(), 2020);
    });
    world.round().await.unwrap();
    assert!(world.server.get(&bundle("red", "default")).is_some());
    // Its name sorts first, but it is younger.
    let younger = "/apis/bowline.dev/v1alpha1/meshes/a";
    world.server.put(younger, created(mesh("a", red), 2021));
    for _ in 0..2 {
        world.round().await.unwrap();
        world.round_of("a").await.unwrap();
    }
    assert_eq!(condition(&world, "default", "Ready"), is("True", "Reconciled"));
    assert_eq!(condition(&world, "default", "Degraded"), is("False", "AsExpected"));
    assert!(world.server.get(&bundle("red", "default")).is_some() && world.server.get(&bundle("red", "a")).is_none());
    for kind in ["Stalled", "Degraded"] {
        let (status, reason, message) = world.condition("a", kind);
        assert_eq!((status.as_str(), reason.as_str()), ("True", "NamespaceConflict"));
        for word in ["namespace red", "older Mesh default", "bowline.dev/mesh=a"] {
            assert!(message.contains(word), "{message}");
        }
    }
    assert_eq!(condition(&world, "a", "Ready"), is("False", "NamespaceConflict"));
    // The remedy is one.
    world.namespace("red", json!({ "team": "red", "bowline.dev/mesh": "a" }));
    world.round().await.unwrap();
    world.round_of("a").await.unwrap();
    assert_eq!(condition(&world, "a", "Ready"), is("True", "Reconciled"));
    assert!(world.server.get(&bundle("red", "a")).is_some() && world.server.get(&bundle("red", "default")).is_none());
}

#[tokio::test]
async fn a_selector_that_only_the_operator_can_judge_stalls_and_takes_nothing_away() {
    let world = World::settled().await;
    world.namespace("red", json!({ "team": "red" }));
    world.change(MESH, |m| {
        m["spec"] = json!({ "injection": { "namespaceSelector": { "matchLabels": { "team": "red" } } } })
    });
    world.round().await.unwrap();
    assert!(world.server.get(&bundle("red", "default")).is_some());
    for poison in [
        json!({ "operator": "Is" }),
        json!({ "operator": "NotIn", "values": [] }),
        json!({ "operator": "in", "values": ["x"] }),
    ] {
        let mut expression = poison.clone();
        expression["key"] = "team".into();
        world.change(MESH, |m| {
            m["metadata"]["generation"] = 2.into();
            m["spec"] = json!({ "mtls": { "mode": "Permissive" }, "injection": { "namespaceSelector": { "matchExpressions": [expression] } } });
        });
        for _ in 0..2 {
            world.round().await.expect("told");
            let (status, reason, message) = world.condition("default", "Stalled");
            assert_eq!((status.as_str(), reason.as_str()), ("True", "InvalidSpec"), "{poison}");
            assert!(message.contains("spec.injection.namespaceSelector"), "{message}");
            let status = world.server.get(MESH).unwrap()["status"].clone();
            assert_eq!((&status["observedGeneration"], &status["mtlsMode"]), (&json!(2), &json!("Strict")));
            assert_eq!(status["namespaces"]["names"], json!(["red", "shop"]), "{poison}");
            assert!(world.server.get(BUNDLE).is_some() && world.server.get(&bundle("red", "default")).is_some());
            assert_eq!(world.condition("default", "Available").0, "True");
        }
    }
}

#[tokio::test]
async fn one_namespace_that_cannot_be_written_keeps_no_other_from_its_bundle() {
    let world = World::settled().await;
    let names: Vec<String> = (0..20).map(|n| format!("ns-{n:02}")).collect();
    for name in &names {
        world.namespace(name, json!({ "bowline.dev/mesh": "default" }));
    }
    world.server.fail(Method::PATCH, "/namespaces/ns-07/configmaps/", Fault::Status(403), usize::MAX);
    let mut told = Vec::new();
    for _ in 0..3 {
        assert!(world.round().await.is_err());
        let with: Vec<&String> = names.iter().filter(|n| world.server.get(&bundle(n, "default")).is_some()).collect();
        assert_eq!(with.len(), 19, "{with:?}");
        told.push(world.condition("default", "Degraded"));
    }
    let (status, reason, message) = &told[0];
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Forbidden"));
    assert!(message.contains("ConfigMap ns-07/bowline-trust-default") && message.contains("roles"), "{message}");
    assert!(told.iter().all(|t| *t == told[0]), "{told:?}");
    world.server.writes();
    assert!(world.round().await.is_err());
    let writes = world.server.writes();
    assert!(!writes.iter().any(|w| w.ends_with("/status")), "a status that says the same is written again: {writes:?}");
}

#[tokio::test]
async fn a_quota_is_told_apart_and_a_namespace_that_goes_is_no_failure() {
    let world = World::settled().await;
    world.namespace("new", json!({ "bowline.dev/mesh": "default" }));
    let quota = Fault::Forbidden { message: "configmaps \"x\" is forbidden: exceeded quota: small", cause: "" };
    world.server.fail(Method::PATCH, "/namespaces/new/configmaps/", quota, 1);
    assert!(world.round().await.is_err());
    let (status, reason, message) = world.condition("default", "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "QuotaExceeded"));
    assert!(message.contains("ConfigMap new/") && message.contains("ResourceQuota"), "{message}");
    let told = world.events().matches("QuotaExceeded").count();
    assert_eq!(told, 1, "the same is told as good news too: {}", world.events());
    let going = Fault::Forbidden { message: "unable to create new content", cause: "NamespaceTerminating" };
    world.server.fail(Method::PATCH, "/namespaces/new/configmaps/", going, 1);
    world.round().await.expect("its end is near");
    assert_eq!(world.condition("default", "Degraded").0, "False");
}

#[tokio::test]
async fn pods_that_cannot_carry_a_sidecar_are_told_what_they_can_do() {
    let world = World::settled().await;
    let pod = |name: &str, labels: Value, annotations: Value, host: bool| {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "status": { "phase": "Running" }, "spec": { "containers": [], "hostNetwork": host },
            "metadata": { "name": name, "namespace": "shop", "labels": labels, "annotations": annotations }
        });
        world.server.put(&format!("/api/v1/namespaces/shop/pods/{name}"), object);
    };
    pod("static", json!({}), json!({ "kubernetes.io/config.mirror": "x" }), true);
    world.round().await.unwrap();
    assert_eq!(world.condition("default", "Degraded").0, "False", "a static pod cannot be changed");
    pod("agent", json!({}), json!({}), true);
    world.round().await.unwrap();
    let (status, reason, message) = world.condition("default", "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "PodsWithoutSidecar"));
    assert!(message.contains("shop/agent") && message.contains("bowline.dev/inject=false"), "{message}");
    assert!(!message.contains("restart"), "that would change nothing: {message}");
    pod("agent", json!({ "bowline.dev/inject": "false" }), json!({}), true);
    world.round().await.unwrap();
    assert_eq!(world.condition("default", "Degraded").0, "False");
}

#[tokio::test]
async fn a_refusal_deletes_nothing_unless_the_config_map_cannot_be_changed() {
    let world = World::settled().await;
    let edit =
        |world: &World| world.change(BUNDLE, |m| m["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "me".into());
    edit(&world);
    // As a ValidatingAdmissionPolicy does it.
    world.server.fail(Method::PATCH, "/configmaps/", Fault::Status(422), 1);
    let error = world.round().await.expect_err("a refusal is no success").to_string();
    assert!(error.contains("ConfigMap shop/bowline-trust-default"), "{error}");
    assert!(world.server.get(BUNDLE).is_some(), "the bundle that workloads trust went away");
    world.round().await.expect("written");
    assert_eq!(world.condition("default", "Ready").0, "True");

    edit(&world);
    world.change(BUNDLE, |m| m["immutable"] = true.into());
    world.server.fail(Method::PATCH, "/configmaps/", Fault::Status(422), 1);
    world.round().await.expect("deleted, to be made anew");
    assert!(world.server.get(BUNDLE).is_none());
    world.round().await.expect("made anew");
    assert!(world.server.get(BUNDLE).is_some());
}

#[tokio::test]
async fn a_label_makes_no_bundle_of_a_strangers_config_map() {
    let world = World::settled().await;
    let stranger = |namespace: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": { "mine": "x" },
            "metadata": { "name": "a-stranger", "namespace": namespace, "labels": { "bowline.dev/owned-by": "default" } }
        })
    };
    let paths = ["shop", "other"].map(|n| format!("/api/v1/namespaces/{n}/configmaps/a-stranger"));
    for (path, namespace) in paths.iter().zip(["shop", "other"]) {
        world.server.put(path, stranger(namespace));
    }
    world.server.remove(BUNDLE);
    for _ in 0..2 {
        world.round().await.unwrap();
    }
    assert!(world.server.get(BUNDLE).is_some(), "a stranger was taken for the bundle");
    for (path, namespace) in paths.iter().zip(["shop", "other"]) {
        let left = world.server.get(path).expect("a stranger was deleted");
        assert_eq!(left["data"], stranger(namespace)["data"]);
    }
    assert_eq!(world.condition("default", "Ready").0, "True");
}

#[tokio::test]
async fn a_finalizer_that_cannot_be_added_is_told() {
    let world = World::new();
    world.server.fail(Method::PATCH, "/meshes/default", Fault::Status(403), 1);
    assert!(world.round().await.is_err());
    for kind in ["Ready", "Degraded"] {
        let (_, reason, message) = world.condition("default", kind);
        assert_eq!(reason, "Forbidden");
        assert!(message.contains("finalizers of Mesh default") && message.contains("roles"), "{message}");
    }
    assert_eq!(world.condition("default", "Ready").0, "False");
    assert!(world.events().contains("Forbidden"), "{}", world.events());
    for _ in 0..2 {
        world.round().await.expect("healed");
    }
    assert_eq!(world.condition("default", "Ready").0, "True");
}
