//! Gathers the evidence for a rotation: the live pods with a proxy, what they told whichever replica they are connected to, and what the
//! replicas live with.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use bowline_crds::names::MESHED_LABEL;
use bowline_proxy::contract::{bootstrap::SLOTS, proto::ObserveResponse};
use data_encoding::HEXLOWER;
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt, api::ListParams};

use crate::{
    ca::{
        rotation::{
            evidence::{Evidence, Holding, Mount, Proxy, Replica, Report},
            ledger::Ledger,
        },
        unix_time::unix,
    },
    cluster::{
        cache::Cache,
        pod::{injected_mesh, is_finished},
    },
    runtime::config::OPERATOR_NAME,
    serving::replicas::{client::ReplicaClient, local::LocalReplica},
};

/// Pods that one answer of the API server holds.
const PAGE: u32 = 500;
/// Replicas that are asked at the same time.
const AT_ONCE: usize = 8;

/// When this process began to gather evidence, in seconds since the Unix epoch; 0: not yet.
static WATCHED_SINCE: AtomicU64 = AtomicU64::new(0);

/// The operator's replicas: this one, and how the others are asked.
pub struct Replicas {
    /// This one.
    pub local: LocalReplica,
    /// Name of its pod.
    pub pod_name: String,
    /// Asks another.
    pub client: ReplicaClient,
    /// Pods of the operator's namespace, to find them.
    pub pods: Api<Pod>,
    /// The operator's namespace.
    pub namespace: String,
}

/// Sees everybody who depends on a Mesh's CA.
pub struct Observer<'a> {
    /// To look up every pod once more.
    pub client: &'a Client,
    /// Every pod.
    pub pods: &'a Cache<Pod>,
    /// Who is asked what proxies said.
    pub replicas: &'a Replicas,
    /// Name of the Mesh.
    pub mesh: &'a str,
    /// See [`Evidence::mounts`].
    pub mounts: Vec<Mount>,
}

impl Observer<'_> {
    /// What they say now, about this ledger.
    pub async fn gather(&self, ledger: &Ledger) -> Evidence {
        let now = unix(SystemTime::now());
        let watched_since = match WATCHED_SINCE.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => now,
            Err(since) => since,
        };
        let said = self.replicas.ask_all(self.mesh).await;
        let replicas =
            said.iter().map(|(name, said)| Replica { name: name.clone(), holds: said.as_ref().map(holding) });
        let replicas = replicas.collect();
        let answers: Vec<ObserveResponse> = said.into_values().flatten().collect();
        let pods = self.pods.all();
        let pods = pods.iter().map(AsRef::as_ref).filter(|p| is_of(p, self.mesh));
        let proxies = proxies(pods, &answers);
        tracing::debug!(mesh = self.mesh, revision = ledger.revision, proxies = proxies.len(), "evidence was gathered");
        Evidence { watched_since, proxies, replicas, mounts: self.mounts.clone() }
    }

    /// Whether the evidence was about every pod that there is: one that the API server has and memory has not may live with anything.
    ///
    /// # Errors
    /// That of the API server.
    pub async fn is_complete(&self) -> kube::Result<bool> {
        let api = Api::<Pod>::all(self.client.clone());
        let mut page = ListParams::default().labels(&format!("{MESHED_LABEL}=true")).limit(PAGE);
        let known: std::collections::HashSet<String> =
            self.pods.all().iter().filter_map(|p| p.metadata.uid.clone()).collect();
        loop {
            let pods = api.list_metadata(&page).await?;
            if pods.items.iter().any(|p| p.metadata.uid.as_ref().is_none_or(|uid| !known.contains(uid))) {
                return Ok(false);
            }
            match pods.metadata.continue_.filter(|c| !c.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(true),
            }
        }
    }
}

impl Replicas {
    /// What every live replica says, by name; `None`: it does not answer. The list is read anew: a replica that is not in it starts later, and
    /// reads the state then.
    async fn ask_all(&self, mesh: &str) -> BTreeMap<String, Option<ObserveResponse>> {
        let name = |pod: &str| format!("{}/{pod}", self.namespace);
        let mut said = BTreeMap::from([(name(&self.pod_name), self.local.observe(mesh))]);
        let label = format!("app.kubernetes.io/name={OPERATOR_NAME}");
        let pods = match self.pods.list(&ListParams::default().labels(&label)).await {
            Ok(pods) => pods.items,
            Err(error) => {
                tracing::warn!(%error, "the operator's replicas cannot be listed");
                said.insert(format!("{}/(replicas that cannot be listed)", self.namespace), None);
                return said;
            }
        };
        let others = pods.into_iter().filter(|p| p.name_any() != self.pod_name && !is_finished(p));
        let asked = stream::iter(others.filter_map(|p| address(&p).map(|ip| (p.name_any(), ip))))
            .map(|(pod, ip)| async move {
                let answer = self.client.ask(mesh, ip).await;
                let answer = answer.inspect_err(|error| tracing::info!(pod, %error, "a replica does not answer"));
                (pod, answer.ok())
            })
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        said.extend(asked.into_iter().map(|(pod, answer)| (name(&pod), answer)));
        said
    }
}

fn holding(said: &ObserveResponse) -> Holding {
    Holding { revision: said.revision, issuer: HEXLOWER.encode(&said.issuer_sha256) }
}

fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

fn is_of(pod: &Pod, mesh: &str) -> bool {
    injected_mesh(pod) == Some(mesh) && !is_finished(pod)
}

/// Whether a slot of the pod has ever run: before, it holds no leaf.
fn has_started(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().filter(|s| SLOTS.contains(&s.name.as_str())).any(|s| {
        let now = s.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        now || s.restart_count > 0 || s.last_state.as_ref().is_some_and(|l| l.terminated.is_some())
    })
}

/// Every pod that holds a leaf or may, with what it said to whichever replica.
fn proxies<'a>(pods: impl Iterator<Item = &'a Pod>, answers: &[ObserveResponse]) -> Vec<Proxy> {
    let mut streams: HashMap<&str, Vec<Option<Report>>> = HashMap::new();
    let mut clocks: HashMap<&str, i64> = HashMap::new();
    for answer in answers {
        for proxy in &answer.proxies {
            let report = proxy
                .report
                .as_ref()
                .map(|r| Report { bundle_sequence: r.bundle_sequence, issuer: HEXLOWER.encode(&r.issuer_sha256) });
            streams.entry(&proxy.pod_uid).or_default().push(report);
        }
        for clock in &answer.clocks {
            let known = clocks.entry(&clock.pod_uid).or_default();
            if clock.skew_ms.unsigned_abs() > known.unsigned_abs() {
                *known = clock.skew_ms;
            }
        }
    }
    let mut proxies: Vec<Proxy> = pods
        .filter_map(|pod| {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let streams = streams.remove(uid).unwrap_or_default();
            let signed = clocks.contains_key(uid);
            (!streams.is_empty() || signed || has_started(pod)).then(|| Proxy {
                name: format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
                streams,
                skew: clocks.get(uid).map(|ms| ms / 1000),
            })
        })
        .collect();
    proxies.sort_by(|a, b| a.name.cmp(&b.name));
    proxies
}

#[cfg(test)]
mod tests;
