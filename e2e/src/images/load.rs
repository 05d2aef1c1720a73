//! Brings image archives to the nodes, each only when the node has not got that very image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::host::env::Env;
use crate::host::progress::{say, step};
use crate::host::shell::{Cmd, run};
use crate::nodes::node_files::{containerd_socket, dir, images_ready};
use crate::nodes::state::{Record, write_atomically};
use crate::programs::kubernetes::Programs;

/// What a node was given: image name to the archive and the digest of the image's configuration, which covers its content.
type Loaded = BTreeMap<String, Given>;

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
struct Given {
    config: String,
    archive: PathBuf,
}

/// An entry of a docker archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
}

/// Loads `archives` on all nodes of the running cluster.
///
/// # Errors
/// When there is no cluster, or an archive is none.
pub async fn on_all_nodes(env: &Env, archives: &[PathBuf]) -> Result<()> {
    if let Some(advice) = advice(env, archives) {
        bail!(advice);
    }
    let record = Record::read(env)?.context("there is no cluster: start one with `cargo e2e up`")?;
    let programs = Programs::locate(env)?;
    for node in &record.nodes {
        for archive in archives {
            on_node(env, &programs, node.number, archive).await?;
        }
    }
    Ok(())
}

/// With `KUBECONFIG` set: how images get to a cluster that is not ours.
#[must_use]
pub fn advice(env: &Env, archives: &[PathBuf]) -> Option<String> {
    let kubeconfig = env.kubeconfig.as_ref()?.display();
    let files: Vec<_> = archives.iter().map(|archive| archive.display().to_string()).collect();
    // kind ignores every archive but the first.
    let kind: String = files.iter().map(|file| format!("\n  kind load image-archive {file}")).collect();
    Some(format!(
        "KUBECONFIG={kubeconfig} is a cluster of yours: bring the images to its nodes yourself, such as{kind}\nor\n  \
         k3d image import {}",
        files.join(" ")
    ))
}

/// Loads `base`, and what the first node was given since, on a node that is starting; then lets its kubelet start.
///
/// # Errors
/// When containerd does not start or an image cannot be loaded.
pub async fn on_new_node(env: &Env, programs: &Programs, number: u8, base: &[PathBuf]) -> Result<()> {
    await_containerd(env, number).await?;
    for archive in base {
        on_node(env, programs, number, archive).await?;
    }
    for given in read(env, 1).into_values().filter(|given| number != 1 && given.archive.is_file()) {
        on_node(env, programs, number, &given.archive).await?;
    }
    let ready = images_ready(&env.state, number);
    std::fs::write(&ready, "").with_context(|| format!("cannot write {}", ready.display()))
}

/// Whether a container of a pod runs another image than the one of that name on the nodes of our own cluster: it was built anew since.
#[must_use]
pub fn is_outdated(env: &Env, pod: &Value) -> bool {
    differs(pod, |name| on_first_node(env, name))
}

fn differs(pod: &Value, loaded: impl Fn(&str) -> Option<String>) -> bool {
    let each = |part: &str, lists: [&str; 2]| -> Vec<Value> {
        let all = lists.map(|list| pod[part][list].as_array().cloned().unwrap_or_default());
        all.into_iter().flatten().collect()
    };
    let spec = each("spec", ["initContainers", "containers"]);
    let names: BTreeMap<_, _> = spec.iter().filter_map(|c| Some((c["name"].as_str()?, c["image"].as_str()?))).collect();
    each("status", ["initContainerStatuses", "containerStatuses"]).iter().any(|status| {
        let runs = status["imageID"].as_str().unwrap_or_default().trim_start_matches("sha256:");
        let loaded = status["name"].as_str().and_then(|name| names.get(name)).and_then(|name| loaded(name));
        // One that has not started yet has no image.
        !runs.is_empty() && loaded.is_some_and(|loaded| loaded != runs)
    })
}

/// The digest of the image that the nodes of our own cluster have under `name`, as `imageID` in a pod's status shows it.
fn on_first_node(env: &Env, name: &str) -> Option<String> {
    let given = if env.kubeconfig.is_none() { read(env, 1).remove(name) } else { None };
    given.map(|given| given.config.trim_start_matches("sha256:").trim_end_matches(".json").to_owned())
}

async fn await_containerd(env: &Env, number: u8) -> Result<()> {
    let socket = containerd_socket(&env.state, number);
    for _ in 0..600 {
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = dir(&env.state, number).join("log/containerd.log");
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    let tail: Vec<_> = log.lines().rev().take(5).collect();
    bail!(
        "containerd of node {number} does not start; it said last:\n{}",
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    )
}

async fn on_node(env: &Env, programs: &Programs, number: u8, archive: &Path) -> Result<()> {
    let archive = archive.canonicalize().with_context(|| format!("no image archive {}", archive.display()))?;
    let names = names(&archive).await?;
    let mut loaded = read(env, number);
    if names.iter().all(|(name, given)| loaded.get(name) == Some(given)) {
        return Ok(());
    }
    let ctr = programs.path("ctr")?;
    let import = Cmd::new(&ctr)
        .args(["--address".as_ref(), containerd_socket(&env.state, number).as_os_str()])
        .args(["--namespace", "k8s.io", "images", "import"])
        .args([&archive]);
    let list = names.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    step(&format!("loading {list} on node{number}"), import.output()).await?;
    say(format_args!("node{number} has {list}"));
    loaded.extend(names);
    write_atomically(&file(env, number), &serde_json::to_vec_pretty(&loaded)?)
}

/// The images in an archive.
async fn names(archive: &Path) -> Result<Loaded> {
    let path = archive.to_string_lossy();
    let advice = || format!("{path} is not a docker archive (buildah push … docker-archive:FILE:NAME makes one)");
    let manifest = run("tar", &["-xOf", &path, "manifest.json"]).await.with_context(advice)?;
    let entries: Vec<Entry> = serde_json::from_str(&manifest).with_context(advice)?;
    let names = entries.into_iter().flat_map(|entry| {
        let given = Given { config: entry.config, archive: archive.into() };
        entry.repo_tags.unwrap_or_default().into_iter().map(move |name| (name, given.clone()))
    });
    Ok(names.collect())
}

fn file(env: &Env, number: u8) -> PathBuf {
    dir(&env.state, number).join("images.json")
}

/// What cannot be read is loaded again.
fn read(env: &Env, number: u8) -> Loaded {
    std::fs::read(file(env, number)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn advice_is_for_clusters_of_the_users_and_names_every_archive() {
        let env = Env { kubeconfig: None, ..Env::from_process().unwrap() };
        let archives = [PathBuf::from("/a.tar"), "/b.tar".into()];
        assert_eq!(advice(&env, &archives), None);
        let said = advice(&Env { kubeconfig: Some("/config".into()), ..env }, &archives).unwrap();
        for line in
            ["kind load image-archive /a.tar", "kind load image-archive /b.tar", "k3d image import /a.tar /b.tar"]
        {
            assert!(said.lines().any(|l| l.trim() == line), "{said} lacks {line}");
        }
    }

    #[test]
    fn a_pod_is_outdated_when_any_of_its_images_was_built_anew() {
        let pod = |proxy: &str, app: &str| -> Value {
            let status = |name: &str, id: &str| json!({ "name": name, "imageID": id, "image": "", "ready": true, "restartCount": 0 });
            json!({
                "spec": {
                    "initContainers": [{ "name": "bowline-a", "image": "localhost/bowline-proxy:0.1.0" }],
                    "containers": [{ "name": "app", "image": "localhost/bowline-test-app:0.1.0" }],
                },
                "status": {
                    "initContainerStatuses": [status("bowline-a", proxy)],
                    "containerStatuses": [status("app", app)],
                },
            })
        };
        let loaded = |name: &str| match name {
            "localhost/bowline-proxy:0.1.0" => Some("aa".to_owned()),
            "localhost/bowline-test-app:0.1.0" => Some("bb".to_owned()),
            _ => None,
        };
        assert!(!differs(&pod("sha256:aa", "sha256:bb"), loaded));
        assert!(differs(&pod("sha256:old", "sha256:bb"), loaded));
        assert!(differs(&pod("sha256:aa", "sha256:old"), loaded));
        assert!(!differs(&pod("", "sha256:bb"), loaded), "it has not started yet");
        assert!(!differs(&pod("sha256:old", "sha256:old"), |_| None), "nobody knows what a node of the user's has");
    }
}
