use bowline_crds::MeshSpec;

use super::*;
use crate::cluster::membership::exempt;

fn mesh(name: &str, selector: Option<LabelSelector>) -> Arc<Mesh> {
    let mut spec = MeshSpec::default();
    spec.injection.namespace_selector = selector;
    Arc::new(Mesh::new(name, spec))
}

#[test]
fn it_exists_while_there_are_meshes_and_never_touches_the_system() {
    let exempt = exempt("bowline-system");
    assert!(build(&[], &exempt, "bowline-system", "").is_none());
    let meshes = [mesh("a", None), mesh("b", Some(LabelSelector::default()))];
    let made = build(&meshes, &exempt, "bowline-system", "PEM").unwrap();
    let webhooks = made.webhooks.clone().unwrap();
    let names: Vec<&str> = webhooks.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names, ["label.inject.bowline.dev", "b.mesh.inject.bowline.dev"]);
    for webhook in &webhooks {
        let expressions = webhook.namespace_selector.clone().unwrap().match_expressions.unwrap();
        let never = expressions.iter().find(|e| e.key == "kubernetes.io/metadata.name").unwrap();
        assert_eq!(never.operator, "NotIn");
        for namespace in ["kube-system", "bowline-system"] {
            assert!(never.values.as_ref().unwrap().contains(&namespace.to_owned()), "{namespace}");
        }
        assert_eq!(webhook.failure_policy.as_deref(), Some("Fail"));
        let service = webhook.client_config.service.clone().unwrap();
        assert_eq!((service.name.as_str(), service.path.as_deref()), ("bowline-webhook", Some("/inject")));
    }
    assert!(is_current(&made, &made));
    let mut edited = made.clone();
    edited.webhooks.as_mut().unwrap()[0].failure_policy = Some("Ignore".into());
    assert!(!is_current(&edited, &made));
}

#[test]
fn a_selector_that_the_api_server_would_refuse_stays_out_of_what_all_meshes_share() {
    let exempt = exempt("bowline-system");
    let good = mesh("good", Some(LabelSelector::default()));
    let alone = build(std::slice::from_ref(&good), &exempt, "bowline-system", "PEM");
    for (operator, values) in
        [("in", Some(vec!["a"])), ("NotIn", Some(vec![])), ("Exists", Some(vec!["a"])), ("In", None)]
    {
        let values = values.map(|v| v.into_iter().map(str::to_owned).collect());
        let expression = LabelSelectorRequirement { key: "team".into(), operator: operator.into(), values };
        let selector = LabelSelector { match_expressions: Some(vec![expression]), match_labels: None };
        let mut poisoned = Arc::unwrap_or_clone(mesh("poisoned", Some(selector)));
        let meshes = [Arc::clone(&good), Arc::new(poisoned.clone())];
        assert_eq!(build(&meshes, &exempt, "bowline-system", "PEM"), alone, "{operator}");
        // Its last valid one stays in force.
        let last =
            LabelSelector { match_labels: Some([("team".into(), "a".into())].into()), ..LabelSelector::default() };
        let namespaces = bowline_crds::mesh::NamespacesStatus { selector: Some(last), ..Default::default() };
        poisoned.status = Some(bowline_crds::MeshStatus { namespaces: Some(namespaces), ..Default::default() });
        let made = build(&[Arc::clone(&good), Arc::new(poisoned)], &exempt, "bowline-system", "PEM").unwrap();
        let webhook = made.webhooks.unwrap().into_iter().find(|w| w.name.starts_with("poisoned.")).unwrap();
        assert_eq!(webhook.namespace_selector.unwrap().match_labels.unwrap()["team"], "a");
    }
}
