//! Pods that were copied from running ones.

use super::*;

fn probed() -> Value {
    injected(&load("probes.yaml"))
}

/// As the remedy of [`Refusal::Leftover`] has it.
fn stripped(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let ours = |item: &Value| item["name"].as_str().is_some_and(|name| name.starts_with("bowline-"));
    for list in ["initContainers", "volumes"] {
        pod["spec"][list].as_array_mut().unwrap().retain(|item| !ours(item));
    }
    pod["metadata"]["annotations"].as_object_mut().unwrap().remove("bowline.dev/injected");
    pod
}

#[test]
fn probes_that_nobody_would_answer_are_named() {
    let mut pod = stripped(&probed());
    let mut named = Vec::new();
    loop {
        let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
        let refusal = match decide(&typed, &namespace(json!({})), &member(), IMAGE, &key(2)) {
            Decision::Refuse(Refusal::CopiedProbe { container, probe }) => (container, probe),
            Decision::Inject(_) => break,
            other => panic!("{other:?}"),
        };
        // The remedy, for that one.
        let lists = ["initContainers", "containers"];
        let (list, index) = lists
            .iter()
            .find_map(|list| {
                let at = pod["spec"][list].as_array().unwrap().iter().position(|c| c["name"] == refusal.0.as_str())?;
                Some((*list, at))
            })
            .unwrap();
        let pointer = format!("/spec/{list}/{index}/{}", refusal.1.replace('.', "/"));
        *pod.pointer_mut(&pointer).unwrap() = json!({ "exec": { "command": ["true"] } });
        named.push(format!("{} {}", refusal.0, refusal.1));
    }
    assert!(named.contains(&"http livenessProbe".to_owned()), "{named:?}");
    assert!(named.contains(&"http lifecycle.postStart".to_owned()), "{named:?}");
    assert!(named.contains(&"helper startupProbe".to_owned()), "{named:?}");
}

#[test]
fn a_copy_with_its_sidecar_is_taken_as_it_is() {
    let pod = probed();
    assert_eq!(injected(&pod), pod);
    // A further container that was copied from elsewhere is another matter.
    let mut mixed = pod;
    let path = format!("/probe/{:032x}/web/liveness", 7);
    mixed["spec"]["containers"].as_array_mut().unwrap().push(json!({ "name": "web", "image": "web:1",
        "livenessProbe": { "httpGet": { "path": path, "port": 15021 } } }));
    let message = refusal(&mixed, json!({}), &member());
    assert!(message.starts_with("livenessProbe of container web asks"), "{message}");
}
