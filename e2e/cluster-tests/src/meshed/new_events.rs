//! What the operator tells by events, from a moment on: Kubernetes keeps those of earlier tests and of earlier runs for an hour.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;

use super::shared::SOON;
use crate::context::Context;

/// Versions of the events that were there at a moment, by UID: one that is repeated gets another version.
pub struct NewEvents<'a> {
    cx: &'a Context,
    before: BTreeMap<String, String>,
}

impl<'a> NewEvents<'a> {
    /// From now on.
    ///
    /// # Errors
    /// When events cannot be listed.
    pub async fn from_now(cx: &'a Context) -> Result<Self> {
        Ok(Self { cx, before: all(cx).await?.iter().map(version).collect() })
    }

    /// Waits for an event about `object` with that reason whose note speaks of every one of `words`.
    ///
    /// # Errors
    /// After a minute; quotes what was told instead.
    pub async fn event(&self, object: &str, reason: &str, words: &[&str]) -> Result<()> {
        let what = format!("no new event {reason} about {object} speaks of {words:?}");
        self.cx
            .eventually(SOON, &what, || async {
                let all = all(self.cx).await?;
                let about = |e: &&Event| e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(object);
                let new = |e: &&Event| {
                    let (uid, version) = version(e);
                    self.before.get(&uid) != Some(&version)
                };
                let new: Vec<_> = all.iter().filter(about).filter(new).collect();
                let note = |e: &Event| e.note.clone().unwrap_or_default();
                let says = |e: &&&Event| words.iter().all(|word| note(e).contains(word));
                let mut found = new.iter().filter(|e| e.reason.as_deref() == Some(reason)).filter(says);
                let others: Vec<_> = new.iter().map(|e| format!("{:?}: {}", e.reason, note(e))).collect();
                ensure!(found.next().is_some(), "new ones about it: {others:?}");
                Ok(())
            })
            .await
    }
}

async fn all(cx: &Context) -> Result<Vec<Event>> {
    Ok(Api::<Event>::all(cx.client()).list(&ListParams::default()).await?.items)
}

fn version(event: &Event) -> (String, String) {
    let of = |field: &Option<String>| field.clone().unwrap_or_default();
    (of(&event.metadata.uid), of(&event.metadata.resource_version))
}
