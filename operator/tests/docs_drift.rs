//! The documentation against the code: every field, condition, reason, refusal, metric and alert that a user can meet is described.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeSet, fs, path::Path};

use bowline_crds::Mesh;
use bowline_operator::serving::inject::{decide::Refusal, ports::PortError, probes::ProbeError};
use bowline_proxy::contract::reason::Reason;
use kube::CustomResourceExt;
use serde_json::Value;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Words in backquotes in the first cell of the tables of a page.
fn rows(page: &str) -> BTreeSet<String> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Paths of all properties below `at`; those of types that are Kubernetes' own (selectors, resources, conditions) are not followed.
fn paths(schema: &Value, at: &str, all: &mut BTreeSet<String>) {
    const KUBERNETES: [&str; 4] =
        ["spec.injection.namespaceSelector", "spec.proxy.resources", "status.conditions", "status.namespaces.selector"];
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}.{name}");
        if !KUBERNETES.contains(&path.as_str()) {
            paths(property, &path, all);
            paths(&property["items"], &path, all);
        }
        all.insert(path);
    }
}

#[test]
fn every_field_of_a_mesh_is_described_and_no_other() {
    let crd = serde_json::to_value(Mesh::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut fields = BTreeSet::new();
    for part in ["spec", "status"] {
        paths(&schema[part], part, &mut fields);
    }
    // Objects that a page describes by their fields alone.
    let described = rows(&read("docs/mesh-reference.md"));
    let inner = |path: &String| fields.iter().any(|f| f.starts_with(&format!("{path}.")));
    for field in &fields {
        assert!(described.contains(field) || inner(field), "docs/mesh-reference.md does not describe {field}");
    }
    for row in described.iter().filter(|r| r.starts_with("spec.") || r.starts_with("status.")) {
        assert!(fields.contains(row), "docs/mesh-reference.md describes {row}, which a Mesh does not have");
    }
}

/// String constants of a module of `crds/src/conditions.rs`.
fn constants(module: &str) -> Vec<String> {
    let source = read("crds/src/conditions.rs");
    let body = source.split(&format!("pub mod {module} {{")).nth(1).unwrap().split("\n}").next().unwrap().to_owned();
    let values = body.lines().filter(|l| l.trim().starts_with("pub const"));
    values.map(|l| l.split('"').nth(1).unwrap().to_owned()).collect()
}

#[test]
fn every_condition_and_reason_is_described() {
    let types = rows(&read("docs/mesh-reference.md"));
    let reasons = rows(&read("docs/troubleshooting.md"));
    for kind in constants("types") {
        assert!(types.contains(&kind), "docs/mesh-reference.md does not describe the condition {kind}");
    }
    for reason in constants("reasons") {
        assert!(reasons.contains(&reason), "docs/troubleshooting.md does not describe the reason {reason}");
    }
    for reason in Reason::ALL {
        assert!(reasons.contains(reason.as_str()), "docs/troubleshooting.md does not describe {}", reason.as_str());
    }
}

/// One of each kind. A new kind does not compile here until somebody decides what the page says of it.
fn refusals() -> Vec<Refusal> {
    let skip = |error| Refusal::SkipPorts { annotation: bowline_crds::names::SKIP_INBOUND_ANNOTATION, error };
    let all = vec![
        Refusal::UnknownMesh { namespace: "NAMESPACE".into(), mesh: "MESH".into() },
        Refusal::HostNetwork,
        Refusal::Windows,
        Refusal::PodSecurity { namespace: "NAMESPACE".into(), level: "restricted".into() },
        Refusal::PortCollision { container: "CONTAINER".into(), port: 15_008 },
        Refusal::Probe(ProbeError { container: "CONTAINER".into(), probe: "livenessProbe", port: 15_008 }),
        Refusal::ProxyUser { who: "container CONTAINER".into() },
        Refusal::ForeignContainer("bowline-a".into()),
        Refusal::ForeignVolume("bowline-slots".into()),
        Refusal::Leftover { found: "bowline-a".into(), mesh: "MESH".into() },
        Refusal::CopiedProbe { container: "CONTAINER".into(), probe: "livenessProbe" },
        skip(PortError::NoPort("all".into())),
        skip(PortError::Ours(15_008)),
        skip(PortError::TooMany(65)),
    ];
    for refusal in &all {
        match refusal {
            Refusal::UnknownMesh { .. }
            | Refusal::HostNetwork
            | Refusal::Windows
            | Refusal::PodSecurity { .. }
            | Refusal::PortCollision { .. }
            | Refusal::Probe(_)
            | Refusal::ProxyUser { .. }
            | Refusal::ForeignContainer(_)
            | Refusal::ForeignVolume(_)
            | Refusal::Leftover { .. }
            | Refusal::CopiedProbe { .. }
            | Refusal::SkipPorts { error: PortError::NoPort(_) | PortError::Ours(_) | PortError::TooMany(_), .. } => {}
        }
    }
    all
}

#[test]
fn every_refusal_of_the_injector_is_described_in_its_own_words() {
    let described = rows(&read("docs/troubleshooting.md"));
    for refusal in refusals() {
        let message = refusal.to_string();
        assert!(described.contains(&message), "docs/troubleshooting.md has no row for: {message}");
    }
}

/// String literals of a directory's sources that look like the names of metrics.
fn metrics_named_in(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            metrics_named_in(&path, names);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            let source = fs::read_to_string(&path).unwrap();
            let literals = source.split('"').skip(1);
            let is_metric = |l: &&str| {
                ["bowline_", "controller_runtime_", "workqueue_", "leader_election_"].iter().any(|p| l.starts_with(p))
                    && l.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            };
            names.extend(literals.filter(is_metric).map(str::to_owned));
        }
    }
}

#[test]
fn every_metric_is_described() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let described = &rows(&read("docs/metrics.md")) | &rows(&read("docs/proxy.md"));
    for (source, least) in [("operator/src", 15), ("proxy/src", 8)] {
        let mut names = BTreeSet::new();
        metrics_named_in(&root.join(source), &mut names);
        // Names of crates, and of other things, that look alike.
        names.retain(|n| !["bowline_proxy", "bowline_operator", "bowline_crds"].contains(&n.as_str()));
        assert!(names.len() >= least, "{source}: {names:?}");
        for name in names {
            // Counters get their suffix from the encoder.
            let known = described.contains(&name) || described.contains(&format!("{name}_total"));
            assert!(known, "neither docs/metrics.md nor docs/proxy.md describes {name} of {source}");
        }
    }
}

/// Names of metrics in a text, without what their encoder appends.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    let ours = ["bowline_", "controller_runtime_", "workqueue_", "leader_election_"];
    let names = words.filter(|w| ours.iter().any(|p| w.starts_with(p)) && !w.ends_with('_'));
    let bare = |name: &str| ["_total", "_bucket"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name).to_owned();
    names.map(bare).collect()
}

#[test]
fn every_metric_that_is_described_or_alerts_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut there = BTreeSet::new();
    metrics_named_in(&root.join("operator/src"), &mut there);
    metrics_named_in(&root.join("proxy/src"), &mut there);
    let there: BTreeSet<_> = there.iter().flat_map(|name| metrics_in(name)).chain(["bowline_proxy".into()]).collect();
    for page in ["docs/metrics.md", "docs/proxy.md", "config/prometheus/rules.yaml"] {
        let told = metrics_in(&read(page));
        assert!(told.len() > 5, "{page}: {told:?}");
        let unknown: Vec<_> = told.difference(&there).collect();
        assert!(unknown.is_empty(), "{page} tells of metrics that no source names: {unknown:?}");
    }
}

#[test]
fn every_alert_leads_to_a_section() {
    let page = read("docs/troubleshooting.md");
    let rules: Value = serde_yaml::from_str(&read("config/prometheus/rules.yaml")).unwrap();
    let groups = rules["spec"]["groups"].as_array().unwrap();
    let alerts: Vec<_> = groups.iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    assert!(alerts.len() > 5);
    for rule in alerts {
        let alert = rule["alert"].as_str().unwrap();
        assert!(page.contains(&format!("### {alert}\n")), "docs/troubleshooting.md has no section {alert}");
        let annotations = &rule["annotations"];
        let anchor = format!("#{}", alert.to_lowercase());
        assert!(annotations["runbook_url"].as_str().unwrap().ends_with(&anchor), "{alert} has another runbook");
        assert!(annotations["summary"].is_string() && annotations["description"].is_string(), "{alert}");
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{alert}");
    }
}

const PAGES: [&str; 10] = [
    "README.md",
    "ARCHITECTURE.md",
    "docs/install.md",
    "docs/concepts.md",
    "docs/mesh-reference.md",
    "docs/troubleshooting.md",
    "docs/metrics.md",
    "docs/proxy.md",
    "docs/security.md",
    "docs/development.md",
];

#[test]
fn the_architecture_walks_through_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = read("ARCHITECTURE.md");
    let words = page.split('`').skip(1).step_by(2);
    let files: Vec<_> = words.filter(|w| w.contains('/') && (w.ends_with(".rs") || w.ends_with(".proto"))).collect();
    assert!(files.len() > 40, "{files:?}");
    for file in files {
        assert!(root.join(file).is_file(), "ARCHITECTURE.md walks through {file}, which is not there");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for page in PAGES {
        let text = read(page);
        let base = root.join(page).parent().unwrap().to_path_buf();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if !file.is_empty() && !link.contains("://") {
                assert!(base.join(file).exists(), "{page} leads to {link}, which is not there");
            }
        }
    }
}
