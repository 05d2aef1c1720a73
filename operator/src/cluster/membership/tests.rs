use bowline_crds::MeshSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn selecting(team: &str) -> LabelSelector {
    LabelSelector { match_labels: Some([("team".to_owned(), team.to_owned())].into()), ..LabelSelector::default() }
}

fn mesh(name: &str, selector: Option<LabelSelector>, year: u32) -> Arc<Mesh> {
    let mut spec = MeshSpec::default();
    spec.injection.namespace_selector = selector;
    let mut mesh = Mesh::new(name, spec);
    mesh.metadata.creation_timestamp = serde_json::from_value(json!(format!("{year}-01-01T00:00:00Z"))).unwrap();
    Arc::new(mesh)
}

fn namespace(name: &str, labels: &[(&str, &str)]) -> ObjectMeta {
    let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() }
}

fn selectors(meshes: &[Arc<Mesh>]) -> MeshSelectors {
    MeshSelectors::new(meshes, &Arc::new(exempt("bowline-system")))
}

fn judged(meshes: &[Arc<Mesh>], namespace: &ObjectMeta) -> String {
    match selectors(meshes).membership(namespace) {
        Membership::None => "none".into(),
        Membership::One(m) => m.name_any(),
        Membership::Unknown(name) => format!("unknown {name}"),
    }
}

#[test]
fn the_label_decides_and_then_the_oldest_selector() {
    let meshes = [
        mesh("a", None, 2020),
        mesh("b", Some(selecting("red")), 2022),
        mesh("c", Some(selecting("red")), 2021),
        mesh("d", Some(LabelSelector::default()), 2023),
    ];
    let (ab, all) = (&meshes[..2], &meshes[..]);
    for (meshes, labels, expected) in [
        (ab, vec![], "none"),
        (ab, vec![(MESH_LABEL, "a")], "a"),
        (ab, vec![(MESH_LABEL, "")], "none"),
        (ab, vec![("team", "red")], "b"),
        (ab, vec![("team", "blue")], "none"),
        (ab, vec![(MESH_LABEL, "b"), ("team", "red")], "b"),
        (ab, vec![(MESH_LABEL, "a"), ("team", "red")], "a"),
        (ab, vec![(MESH_LABEL, "x")], "unknown x"),
        // Whoever wrote the label meant that Mesh and no other.
        (all, vec![(MESH_LABEL, "x"), ("team", "red")], "unknown x"),
        (all, vec![("team", "red")], "c"),
        (all, vec![("team", "blue")], "d"),
        (all, vec![(MESH_LABEL, ""), ("team", "red")], "c"),
    ] {
        assert_eq!(judged(meshes, &namespace("shop", &labels)), expected, "{labels:?}");
    }
}

#[test]
fn the_loser_alone_learns_that_it_lost_and_to_whom() {
    let meshes =
        [mesh("b", Some(selecting("red")), 2022), mesh("c", Some(selecting("red")), 2021), mesh("a", None, 2020)];
    let selectors = selectors(&meshes);
    let red = namespace("shop", &[("team", "red")]);
    assert_eq!(selectors.conflict("b", &red), Some(NamespaceConflict::OlderMesh("c".into())));
    assert_eq!(selectors.conflict("c", &red), None);
    assert_eq!(selectors.conflict("a", &red), None);
    let labelled = namespace("shop", &[("team", "red"), (MESH_LABEL, "a")]);
    assert_eq!(selectors.conflict("c", &labelled), Some(NamespaceConflict::LabelNames("a".into())));
    assert_eq!(selectors.conflict("a", &labelled), None);
    assert_eq!(selectors.conflict("c", &namespace("kube-system", &[("team", "red")])), None);
    assert_eq!(selectors.conflict("c", &namespace("shop", &[("team", "red"), (MESH_LABEL, "x")])), None);
}

#[test]
fn of_the_same_age_the_first_by_name_has_it() {
    let meshes = [mesh("b", Some(LabelSelector::default()), 2020), mesh("a", Some(LabelSelector::default()), 2020)];
    assert_eq!(judged(&meshes, &namespace("shop", &[])), "a");
}

#[test]
fn system_namespaces_never_join() {
    let meshes = [mesh("all", Some(LabelSelector::default()), 2020)];
    assert_eq!(judged(&meshes, &namespace("shop", &[])), "all");
    for name in ["kube-system", "kube-public", "kube-node-lease", "bowline-system"] {
        assert_eq!(judged(&meshes, &namespace(name, &[(MESH_LABEL, "all")])), "none", "{name}");
    }
}

#[test]
fn a_selector_that_cannot_be_read_takes_no_member_away_and_none_in() {
    let mut mesh = Arc::unwrap_or_clone(mesh("m", Some(selecting("red")), 2020));
    let poisoned = json!({ "matchExpressions": [{ "key": "team", "operator": "NotIn", "values": [] }] });
    mesh.spec.injection.namespace_selector = serde_json::from_value(poisoned).unwrap();
    let [red, blue] = ["red", "blue"].map(|team| namespace("shop", &[("team", team)]));
    assert_eq!(judged(&[Arc::new(mesh.clone())], &red), "none", "nothing valid is known");
    let status =
        json!({ "namespaces": { "count": 1, "names": ["shop"], "selector": { "matchLabels": { "team": "red" } } } });
    mesh.status = serde_json::from_value(status).unwrap();
    let meshes = [Arc::new(mesh)];
    assert_eq!((judged(&meshes, &red), judged(&meshes, &blue)), ("m".to_owned(), "none".to_owned()));
}

fn any_mesh(name: &'static str, year: u32) -> impl Strategy<Value = Arc<Mesh>> {
    let selector = prop_oneof![
        Just(None),
        Just(Some(LabelSelector::default())),
        Just(Some(selecting("red"))),
        Just(Some(selecting("blue")))
    ];
    selector.prop_map(move |selector| mesh(name, selector, year))
}

proptest! {
    /// A Mesh that is added takes no namespace from an older one, nor from one that its label names.
    #[test]
    fn a_new_mesh_takes_nothing_from_anybody(
        a in any_mesh("a", 2020),
        b in any_mesh("b", 2021),
        // Its name sorts first: only its age counts.
        new in any_mesh("0", 2022),
        label in prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some("x"))],
        team in prop_oneof![Just(None), Just(Some("red")), Just(Some("blue"))],
    ) {
        let labels: Vec<_> = label.map(|l| (MESH_LABEL, l)).into_iter().chain(team.map(|t| ("team", t))).collect();
        let namespace = namespace("shop", &labels);
        let before = [a, b];
        let was = judged(&before, &namespace);
        let after = [new, before[1].clone(), before[0].clone()];
        if was != "none" {
            prop_assert_eq!(judged(&after, &namespace), was);
        } else {
            prop_assert!(["none", "0"].contains(&judged(&after, &namespace).as_str()));
        }
    }
}
