//! Namespaces of a test's own.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bowline_crds::names::MESH_LABEL;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams};

use super::connect::Context;

impl Context {
    /// Makes a namespace and waits until pods can be created in it; `mesh` is the Mesh that it joins.
    ///
    /// What an earlier run left under that name is removed first. The runner deletes it when the test passes, and keeps it when it fails.
    ///
    /// # Errors
    /// When the API server refuses, or the namespace does not get its service account.
    pub async fn temp_ns(&self, name: &str, mesh: Option<&str>) -> Result<String> {
        let labels = mesh.map(|mesh| (MESH_LABEL.to_owned(), mesh.to_owned()));
        self.labelled_ns(name, labels.into_iter().collect()).await
    }

    /// As [`Self::temp_ns`], with any labels.
    ///
    /// # Errors
    /// As [`Self::temp_ns`].
    pub async fn labelled_ns(&self, name: &str, labels: BTreeMap<String, String>) -> Result<String> {
        self.delete_ns(name).await?;
        let metadata = ObjectMeta { name: Some(name.into()), labels: Some(labels), ..Default::default() };
        let namespace = Namespace { metadata, ..Default::default() };
        let api = Api::<Namespace>::all(self.client());
        api.create(&PostParams::default(), &namespace)
            .await
            .with_context(|| format!("cannot make namespace {name}"))?;
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).push(name.into());
        let accounts = Api::<ServiceAccount>::namespaced(self.client(), name);
        let what = format!("namespace {name} gets no service account");
        self.eventually(Duration::from_secs(30), &what, || async {
            accounts.get_opt("default").await?.context("there is none yet")
        })
        .await?;
        Ok(name.into())
    }

    /// Deletes a namespace and waits until it is gone.
    ///
    /// # Errors
    /// When it is still there after two minutes.
    pub async fn delete_ns(&self, name: &str) -> Result<()> {
        let api = Api::<Namespace>::all(self.client());
        if api.get_opt(name).await?.is_none() {
            return Ok(());
        }
        let _ = api.delete(name, &DeleteParams::default()).await;
        let what = format!("namespace {name} does not go");
        self.eventually(Duration::from_secs(120), &what, || async {
            anyhow::ensure!(api.get_opt(name).await?.is_none(), "it is terminating");
            Ok(())
        })
        .await
    }

    /// The namespaces that this test made.
    #[must_use]
    pub fn own_namespaces(&self) -> Vec<String> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts the deletion of the test's namespaces; nobody waits for it.
    pub async fn clean_up(&self) {
        let api = Api::<Namespace>::all(self.client());
        for name in self.own_namespaces() {
            let _ = api.delete(&name, &DeleteParams::background()).await;
        }
    }
}
