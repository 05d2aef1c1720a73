//! Pods that are created all the time, as far as admission goes: the API server asks the webhook as for any pod, and keeps nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use bowline_crds::names::INJECTED_ANNOTATION;
use bowline_proxy::contract::bootstrap::SLOTS;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::app;
use super::shared::SOON;
use crate::context::{Context, Figures};

/// Between two pods.
const PACE: Duration = Duration::from_millis(50);
/// Different troubles that are kept apart.
const MOST_KINDS: usize = 20;

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct Admitted {
    /// Admitted with a sidecar.
    pub injected: u64,
    /// What else happened, and how often.
    pub trouble: BTreeMap<String, u64>,
}

impl Admitted {
    /// Fails unless all were admitted with a sidecar, and enough to tell.
    ///
    /// # Errors
    /// Lists what happened to the others.
    pub fn flawless(&self) -> Result<()> {
        ensure!(self.injected >= 20, "only {} pods were created: that proves little", self.injected);
        ensure!(self.trouble.is_empty(), "besides {} that were injected: {:?}", self.injected, self.trouble);
        Ok(())
    }

    /// Whether nothing went wrong but that the API server did not reach the webhook.
    #[must_use]
    pub fn only_unreached(&self) -> bool {
        !self.trouble.is_empty() && self.trouble.keys().all(|kind| kind.contains("failed calling webhook"))
    }

    /// Puts it into a test's figures.
    #[must_use]
    pub fn figures(&self, figures: Figures) -> Figures {
        figures.with("pods_admitted", self.injected).with("pods_refused", self.trouble.values().sum::<u64>())
    }
}

/// Goes on until it is stopped or dropped.
pub struct Admissions {
    seen: Arc<Mutex<Admitted>>,
    task: JoinHandle<()>,
}

impl Admissions {
    /// Begins in a namespace of a Mesh.
    #[must_use]
    pub fn start(cx: &Context, namespace: &str, mesh: &str) -> Self {
        let (api, mesh) = (Api::<Pod>::namespaced(cx.client(), namespace), mesh.to_owned());
        let seen = Arc::new(Mutex::new(Admitted::default()));
        let into = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                let result = try_one(&api, &mesh).await;
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                match result {
                    Ok(()) => seen.injected += 1,
                    Err(e) => {
                        let kind = format!("{e:#}");
                        let room = seen.trouble.len() < MOST_KINDS || seen.trouble.contains_key(&kind);
                        *seen.trouble.entry(if room { kind } else { "other".into() }).or_default() += 1;
                    }
                }
            }
        });
        Self { seen, task }
    }

    /// Waits until so many more have been admitted.
    ///
    /// # Errors
    /// When they are not within a minute.
    pub async fn go_on(&self, cx: &Context, more: u64) -> Result<()> {
        let wanted = self.so_far().injected + more;
        cx.eventually(SOON, "pods are not admitted", || async {
            let seen = self.so_far();
            ensure!(seen.injected >= wanted, "{seen:?}");
            Ok(())
        })
        .await
    }

    /// Ends it.
    #[must_use]
    pub fn stop(self) -> Admitted {
        self.task.abort();
        self.so_far()
    }

    fn so_far(&self) -> Admitted {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Admissions {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether a pod would be created there now, with a sidecar of that Mesh.
///
/// # Errors
/// When it is refused, and when it has none.
pub async fn injected(cx: &Context, namespace: &str, mesh: &str) -> Result<()> {
    try_one(&Api::namespaced(cx.client(), namespace), mesh).await
}

async fn try_one(api: &Api<Pod>, mesh: &str) -> Result<()> {
    let pod = app::pod("dry", json!({}), json!({ "serviceAccountName": "default" }));
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let made = api.create(&params, &serde_json::from_value(pod)?).await.map_err(|error| match error {
        // The same is told several times over otherwise.
        kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
        error => error.into(),
    })?;
    let init = made.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    let sidecars = init.filter(|c| SLOTS.contains(&c.name.as_str())).count();
    let of = made.metadata.annotations.unwrap_or_default().remove(INJECTED_ANNOTATION).unwrap_or_default();
    ensure!(sidecars == SLOTS.len() && of == mesh, "admitted with {sidecars} slots of Mesh {of:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_webhook_did_not_hear_is_told_from_what_it_answered() {
        let seen = |kinds: &[&str]| Admitted {
            injected: 20,
            trouble: kinds.iter().map(|kind| ((*kind).to_owned(), 1)).collect(),
        };
        let unreached =
            r#"Internal error occurred: failed calling webhook "inject.bowline.dev": failed to call webhook: EOF"#;
        assert!(seen(&[unreached]).only_unreached());
        assert!(!seen(&[]).only_unreached());
        assert!(!seen(&[unreached, "admitted with 0 slots of Mesh \"\""]).only_unreached());
    }
}
