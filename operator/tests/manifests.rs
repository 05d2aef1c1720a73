//! The manifests under `config/` against the code: versions, ports, names, least authority, Pod Security.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize as _;
use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    serde_yaml::Deserializer::from_str(&text)
        .map(|d| Value::deserialize(d).unwrap_or_else(|e| panic!("{}: {e}", file.display())))
        .filter(|d| !d.is_null())
        .collect()
}

/// Every directory of `config/`, each with its YAML files.
fn directories() -> Vec<(PathBuf, Vec<PathBuf>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(config()).unwrap() {
        let directory = entry.unwrap().path();
        if directory.is_dir() {
            let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|f| f.unwrap().path()).collect();
            files.retain(|f| f.extension().is_some_and(|e| e == "yaml"));
            files.sort();
            all.push((directory, files));
        }
    }
    assert!(all.len() >= 7, "config/ has too few directories: {all:?}");
    all
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|v| v.as_str().unwrap()).collect()
}

fn find(kind: &str, name: &str) -> Value {
    directories()
        .iter()
        .flat_map(|(_, files)| files)
        .flat_map(|f| documents(f))
        .find(|d| d["kind"] == kind && d["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("config/ has no {kind} {name}"))
}

#[test]
fn every_file_parses_and_belongs_to_its_kustomization() {
    for (directory, files) in directories() {
        let kustomization = documents(&directory.join("kustomization.yaml")).remove(0);
        let listed: BTreeSet<_> = ["resources", "configurations"]
            .iter()
            .flat_map(|key| strings(&kustomization[key]))
            .map(str::to_owned)
            .collect();
        for entry in &listed {
            assert!(directory.join(entry).exists(), "{}: {entry} does not exist", directory.display());
        }
        let configurations = strings(&kustomization["configurations"]);
        for file in files {
            let name = file.file_name().unwrap().to_str().unwrap();
            let documents = documents(&file);
            assert!(!documents.is_empty(), "{} is empty", file.display());
            if name == "kustomization.yaml" || configurations.contains(&name) {
                continue;
            }
            for document in documents {
                for field in ["/apiVersion", "/kind", "/metadata/name"] {
                    assert!(document.pointer(field).is_some_and(Value::is_string), "{} has no {field}", file.display());
                }
            }
            // Samples are alternatives to each other; everywhere else a file that is not listed is forgotten.
            assert!(
                listed.contains(name) || directory.ends_with("samples"),
                "{} is not in its kustomization.yaml",
                file.display()
            );
        }
    }
}

#[test]
fn images_carry_the_version_of_the_crates() {
    let kustomization = documents(&config().join("manager/kustomization.yaml")).remove(0);
    let images: Vec<_> = kustomization["images"].as_array().unwrap().iter().collect();
    let names: Vec<_> = images.iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["localhost/bowline-operator", "localhost/bowline-proxy"]);
    for image in images {
        assert_eq!(image["newTag"], VERSION, "config/manager/kustomization.yaml, image {}", image["name"]);
    }
    assert_eq!(bowline_proxy::contract::bootstrap::VERSION, VERSION, "proxy and operator are one release");

    let container = &find("Deployment", "bowline-operator")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "localhost/bowline-operator", "the tag stands in the kustomization");
    let proxy = container["env"].as_array().unwrap().iter().find(|e| e["name"] == "BOWLINE_PROXY_IMAGE").unwrap();
    assert_eq!(proxy["value"], "localhost/bowline-proxy", "the tag stands in the kustomization");
}

#[test]
fn roles_name_every_verb_and_resource() {
    let mut rules = 0;
    for (_, files) in directories() {
        for document in files.iter().flat_map(|f| documents(f)) {
            let kind = document["kind"].as_str().unwrap_or_default();
            if kind != "Role" && kind != "ClusterRole" {
                continue;
            }
            for rule in document["rules"].as_array().unwrap() {
                rules += 1;
                let words = ["apiGroups", "resources", "verbs", "resourceNames"].map(|k| strings(&rule[k])).concat();
                assert!(!words.iter().any(|w| w.contains('*')), "{}: {rule}", document["metadata"]["name"]);
            }
        }
    }
    assert!(rules > 10, "only {rules} rules were found");
}

#[test]
fn secrets_are_readable_by_name_only() {
    let cluster = find("ClusterRole", "bowline-operator");
    for rule in cluster["rules"].as_array().unwrap() {
        assert!(!strings(&rule["resources"]).contains(&"secrets"), "no right to Secrets of the whole cluster: {rule}");
    }
    let own = find("Role", "bowline-operator");
    for rule in own["rules"].as_array().unwrap() {
        if strings(&rule["resources"]).contains(&"secrets") && strings(&rule["verbs"]) != ["create"] {
            let names = strings(&rule["resourceNames"]);
            let offered = names == ["bowline-issuer"] && strings(&rule["verbs"]) == ["get"];
            assert!(offered || names == ["bowline-ca"] || names == ["bowline-webhook"], "{rule}");
        }
    }
}

/// Kubernetes' Pod Security Standard "restricted", as far as it concerns pods without volumes and host features.
#[test]
fn the_operator_is_a_restricted_pod() {
    let namespace = find("Namespace", "bowline-system");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");

    let pod = &find("Deployment", "bowline-operator")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["runAsUser"], 65_532);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for field in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
        assert!(pod[field].is_null(), "{field}");
    }
    for container in pod["containers"].as_array().unwrap() {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"], serde_json::json!({"drop": ["ALL"]}));
        assert!(container["resources"]["requests"]["memory"].is_string(), "requests are set");
        assert!(container["resources"]["limits"]["memory"].is_string(), "memory is limited");
    }
}

#[test]
fn the_operator_is_available_while_replicas_come_and_go() {
    let deployment = find("Deployment", "bowline-operator");
    assert!(deployment["spec"]["replicas"].as_u64().unwrap() >= 2);
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let budget = find("PodDisruptionBudget", "bowline-operator");
    assert_eq!(budget["spec"]["minAvailable"], 1);
    for selector in [&deployment["spec"]["selector"]["matchLabels"], &budget["spec"]["selector"]["matchLabels"]] {
        for (key, value) in selector.as_object().unwrap() {
            assert_eq!(&labels[key], value, "selector and pod labels differ in {key}");
        }
    }
}

#[test]
fn services_lead_to_ports_of_the_operator() {
    let deployment = find("Deployment", "bowline-operator");
    let pod = &deployment["spec"]["template"];
    let container = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
    for (service, port, target) in
        [("bowline-webhook", 443, 9443), ("bowline-control", 15_010, 15_010), ("bowline-operator-metrics", 8080, 8080)]
    {
        let service = find("Service", service);
        for (key, value) in service["spec"]["selector"].as_object().unwrap() {
            assert_eq!(&pod["metadata"]["labels"][key], value, "{}", service["metadata"]["name"]);
        }
        let found = &service["spec"]["ports"][0];
        assert_eq!(found["port"], port);
        let named = container.iter().find(|p| p["name"] == found["targetPort"]).expect("targetPort is declared");
        assert_eq!(named["containerPort"], target);
    }
}
