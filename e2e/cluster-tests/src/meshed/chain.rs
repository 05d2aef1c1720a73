//! What proxies prove themselves with, seen by somebody who shakes hands with them and trusts one root alone.

use anyhow::{Context as _, Result, ensure};

use super::authority::{self, Trust};
use super::handshake::knock;
use super::rotation;
use super::shared::SOON;
use crate::context::{Context, pods};

/// Waits until a namespace's bundle holds this root and no other.
///
/// # Errors
/// When it does not in a minute.
pub async fn published(cx: &Context, mesh: &str, namespace: &str, root: &str) -> Result<Trust> {
    cx.eventually(SOON, "the bundle does not hold the new root alone", || async {
        let trust = authority::trust(cx, namespace, mesh).await?;
        let roots: Vec<_> = trust.roots.iter().map(|der| authority::fingerprint(der)).collect();
        ensure!(roots == [root], "the bundle holds {roots:?} instead of {root}");
        Ok(trust)
    })
    .await
}

/// Shakes hands with every pod of an application: each proves itself below this root, and takes a caller's leaf of it.
///
/// # Errors
/// When one does not.
pub async fn ends_at(cx: &Context, mesh: &str, namespace: &str, app: &str, root: &str) -> Result<usize> {
    let trust = published(cx, mesh, namespace, root).await?;
    let selector = format!("app={app}");
    let own = rotation::spiffe(mesh, namespace, app);
    let all = cx.pods(namespace, &selector).await?;
    ensure!(!all.is_empty(), "there is no pod {selector}");
    for pod in &all {
        let credentials = authority::leaf(cx, pod, &trust, &own).await?;
        let answer = knock(cx, pods::ip(pod)?, &trust.roots, Some(credentials), "/").await;
        let status = answer.with_context(|| format!("{} below the root {root}", pods::name(pod)))?;
        ensure!(status == 200, "{} answered {status}", pods::name(pod));
    }
    Ok(all.len())
}
