//! Simulated pods: for each the proxy's own code that gets and renews leaves and keeps a control stream, without a data plane.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result};
use bowline_proxy::{
    contract::bootstrap::{MeshInfo, TRUST_KEY_BUNDLE, TRUST_KEY_MESH},
    control::{
        state::State,
        stream::{self, Client, ProxyId},
    },
    identity::{client::CertificateClient, mount::Mounts, renew, store::Store},
    telemetry::health::Health,
};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::{
    api::Api,
    cluster::{self, ACCOUNT, NAMESPACE, TRUST_PATH},
};

/// What the kubelet would mount into every pod: the trust ConfigMap, kept up to date, and a token for each.
pub(super) struct Mounted {
    dir: PathBuf,
    /// Why it was not kept up to date the last time.
    fault: Arc<Mutex<Option<String>>>,
}

impl Mounted {
    /// Writes tokens into `dir` (which is emptied) and follows the ConfigMap from now on.
    ///
    /// # Errors
    /// When files cannot be written.
    pub(super) fn follow(api: &Api, dir: &Path, pods: u32, service: SocketAddr) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for n in 0..pods {
            let pod = cluster::pod(n);
            fs::write(dir.join(&pod), &pod).with_context(|| format!("cannot write the token of {pod}"))?;
        }
        let mounted = Self { dir: dir.to_owned(), fault: Arc::default() };
        let (dir, fault, version) = (mounted.dir.clone(), Arc::clone(&mounted.fault), AtomicU64::new(0));
        let told = move |map: &Value| {
            let written = write(&dir, map, version.fetch_add(1, Ordering::Relaxed), service);
            *fault.lock().unwrap_or_else(PoisonError::into_inner) = written.err().map(|e| format!("{e:#}"));
        };
        api.watch(TRUST_PATH, Arc::new(told));
        Ok(mounted)
    }

    /// Why what is mounted is not up to date, if it is not.
    #[must_use]
    pub(super) fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the ConfigMap is there.
    #[must_use]
    pub(super) fn is_there(&self) -> bool {
        self.trust().join(TRUST_KEY_BUNDLE).exists()
    }

    fn trust(&self) -> PathBuf {
        self.dir.join("trust")
    }

    fn of(&self, pod: &str) -> Mounts {
        Mounts { trust: self.trust(), token: self.dir.join(pod) }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It lies where temporary files do.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Both files are replaced as one, as the kubelet does it: a new directory, and the link to it renamed.
fn write(dir: &Path, map: &Value, version: u64, service: SocketAddr) -> Result<()> {
    let map: ConfigMap = serde_json::from_value(map.clone()).context("the trust ConfigMap is malformed")?;
    let mut data = map.data.unwrap_or_default();
    let info = data.get(TRUST_KEY_MESH).context("the trust ConfigMap has no mesh.json")?;
    // There is no DNS here that knows the Service.
    let mut info: MeshInfo = serde_json::from_str(info).context("mesh.json is malformed")?;
    info.control_address = service.to_string();
    data.insert(TRUST_KEY_MESH.into(), serde_json::to_string(&info)?);
    let content = dir.join(format!("trust-{version}"));
    fs::create_dir_all(&content)?;
    for (name, text) in data {
        fs::write(content.join(name), text)?;
    }
    let link = dir.join("trust-next");
    symlink(&content, &link)?;
    fs::rename(&link, dir.join("trust")).context("the trust ConfigMap cannot be mounted")
}

/// One simulated pod.
pub(super) struct Proxy {
    /// Leaf and bundle.
    pub(super) store: Arc<Store>,
    state: Arc<State>,
    health: Health,
}

impl Proxy {
    /// Starts number `n`.
    fn start(n: u32, mounted: &Mounted, runtime: &Handle) -> Self {
        let pod = cluster::pod(n);
        let proxy = Self { store: Store::new(), state: State::new(), health: Health::default() };
        let mounts = mounted.of(&pod);
        let client =
            CertificateClient { mounts: mounts.clone(), namespace: NAMESPACE.into(), service_account: ACCOUNT.into() };
        runtime.spawn(renew::keep(client, Arc::clone(&proxy.store), Arc::clone(&proxy.health.identity)));
        let id = ProxyId { namespace: NAMESPACE.into(), uid: cluster::uid(&pod), pod, slot: "a".into() };
        runtime.spawn(stream::keep(Client {
            proxy: id,
            mounts,
            store: Arc::clone(&proxy.store),
            state: Arc::clone(&proxy.state),
            health: Arc::clone(&proxy.health.control),
            serving: Arc::clone(&proxy.health.serving),
        }));
        proxy
    }

    /// Whether it has a leaf, and its stream is open.
    #[must_use]
    pub(super) fn is_up(&self) -> bool {
        self.state.is_connected() && self.store.leaf().is_some()
    }

    /// Why it is not.
    #[must_use]
    pub(super) fn fault(&self) -> String {
        let fault = self.health.identity.error().or_else(|| self.health.control.stream.error());
        fault.unwrap_or_else(|| "it has said nothing yet".into())
    }
}

/// All simulated pods.
pub(super) struct Fleet(Vec<Proxy>);

impl Fleet {
    /// Starts all at once, on `runtime`.
    #[must_use]
    pub(super) fn start(proxies: u32, mounted: &Mounted, runtime: &Handle) -> Self {
        Self((0..proxies).map(|n| Proxy::start(n, mounted, runtime)).collect())
    }

    /// All of them.
    #[must_use]
    pub(super) fn all(&self) -> &[Proxy] {
        &self.0
    }

    /// Attempts to get a leaf that failed, and streams that ended or never began.
    #[must_use]
    pub(super) fn failures(&self) -> (u64, u64) {
        let of = |part: fn(&Health) -> u64| self.0.iter().map(|p| part(&p.health)).sum();
        (of(|h| h.identity.failures()), of(|h| h.control.stream.failures()))
    }
}
