//! Who talks to whom: read from the metrics of the proxies on the called side.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::metrics::{Metrics, Sample};
use crate::cluster::kubectl::{kubectl, pods};
use crate::host::env::Env;

const REQUESTS: &str = "bowline_http_requests_total";
const BUCKETS: &str = "bowline_http_request_duration_seconds_bucket";

/// Who should call whom.
pub(super) struct Expected {
    /// The end of the caller's identity: what comes before it is the trust domain.
    pub(super) caller: String,
    /// The application called.
    pub(super) called: &'static str,
}

/// Counters between one caller and one application.
#[derive(Clone, Debug, Default)]
struct Edge {
    requests: f64,
    failures: f64,
    /// Requests that took at most so many seconds; bounds as they stand on the page.
    buckets: BTreeMap<String, f64>,
}

/// Counters of all proxies of a namespace, by the caller's identity and the application called.
pub(super) struct Traffic {
    edges: BTreeMap<(String, String), Edge>,
    at: Instant,
    seconds: f64,
}

impl Traffic {
    /// Scrapes every meshed pod, through the API server, so that it works on any cluster.
    pub(super) async fn scrape(env: &Env, namespace: &str) -> Result<Self> {
        let mut edges = BTreeMap::<_, Edge>::new();
        for pod in pods(env, namespace, "app").await? {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:15020/proxy/metrics");
            let page = kubectl(env, &["get", "--raw", &path]).await.with_context(|| format!("metrics of {name}"))?;
            let app = pod["metadata"]["labels"]["app"].as_str().unwrap_or(name).to_owned();
            let metrics = Metrics::parse(&page)?;
            for sample in metrics.select(REQUESTS, &[("direction", "inbound")]) {
                let edge = edges.entry((peer(sample), app.clone())).or_default();
                edge.requests += sample.value;
                if sample.labels.get("status_class").is_some_and(|class| class != "2xx") {
                    edge.failures += sample.value;
                }
            }
            for sample in metrics.select(BUCKETS, &[("direction", "inbound")]) {
                let edge = edges.entry((peer(sample), app.clone())).or_default();
                if let Some(bound) = sample.labels.get("le") {
                    *edge.buckets.entry(bound.clone()).or_default() += sample.value;
                }
            }
        }
        Ok(Self { edges, at: Instant::now(), seconds: 0.0 })
    }

    /// What happened after an earlier scrape.
    pub(super) fn since(mut self, earlier: &Self) -> Self {
        self.seconds = (self.at - earlier.at).as_secs_f64();
        for (key, edge) in &mut self.edges {
            let Some(before) = earlier.edges.get(key) else { continue };
            edge.requests -= before.requests;
            edge.failures -= before.failures;
            for (bound, count) in &mut edge.buckets {
                *count -= before.buckets.get(bound).copied().unwrap_or(0.0);
            }
        }
        self
    }

    /// Those of the expected edges over which no request went that was answered well.
    pub(super) fn silent(&self, expected: &[Expected]) -> Vec<String> {
        let talks = |wanted: &&Expected| {
            self.edges.iter().any(|((peer, app), edge)| {
                let proven = peer.starts_with("spiffe://") && peer.ends_with(&wanted.caller);
                proven && app == wanted.called && edge.requests > edge.failures
            })
        };
        let silent = expected.iter().filter(|wanted| !talks(wanted));
        silent.map(|wanted| format!("{} to {}", wanted.caller, wanted.called)).collect()
    }

    /// Requests of all edges together in each second.
    pub(super) fn rate(&self) -> f64 {
        let all: f64 = self.edges.values().map(|edge| edge.requests).sum();
        (all / self.seconds.max(0.001) * 10.0).round() / 10.0
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![["CALLER", "CALLED", "REQUESTS/S", "SUCCESS", "P50", "P99"].map(str::to_owned)];
        for ((peer, app), edge) in self.edges.iter().filter(|(_, edge)| edge.requests > 0.0) {
            let rate = format!("{:.1}", edge.requests / self.seconds.max(0.001));
            let success = format!("{:.1} %", 100.0 * (1.0 - edge.failures / edge.requests));
            let latency =
                |share| quantile(&edge.buckets, share).map_or_else(|| "-".into(), |s| format!("{:.1} ms", s * 1e3));
            rows.push([peer.clone(), app.clone(), rate, success, latency(0.5), latency(0.99)]);
        }
        let width = |n: usize| rows.iter().map(|row| row[n].len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..6).map(width).collect();
        let line = |row: &[String; 6]| {
            let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("  ").trim_end().to_owned() + "\n"
        };
        rows.iter().map(line).collect()
    }
}

fn peer(sample: &Sample) -> String {
    sample.labels.get("peer").cloned().unwrap_or_default()
}

/// The given quantile in seconds, interpolated within its bucket as Prometheus does.
fn quantile(buckets: &BTreeMap<String, f64>, share: f64) -> Option<f64> {
    let bound = |text: &String| if text == "+Inf" { f64::INFINITY } else { text.parse().unwrap_or(f64::INFINITY) };
    let mut sorted: Vec<(f64, f64)> = buckets.iter().map(|(le, count)| (bound(le), *count)).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rank = sorted.last()?.1 * share;
    let (mut below, mut lower) = (0.0, 0.0);
    for (upper, count) in sorted {
        if count >= rank && count > below {
            let part = (rank - below) / (count - below);
            return Some(if upper.is_finite() { lower + (upper - lower) * part } else { lower });
        }
        (below, lower) = (count, upper);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        let buckets = [("0.001", 0.0), ("0.002", 50.0), ("0.004", 100.0), ("+Inf", 100.0)];
        let buckets = buckets.map(|(le, n)| (le.to_owned(), n)).into();
        assert_eq!(quantile(&buckets, 0.5), Some(0.002));
        assert_eq!(quantile(&buckets, 0.75), Some(0.003));
        assert_eq!(quantile(&BTreeMap::new(), 0.5), None);
    }

    #[test]
    fn an_edge_is_silent_without_a_good_request_by_a_proven_caller() {
        let edge = |requests, failures| Edge { requests, failures, ..Edge::default() };
        let id = |name: &str| format!("spiffe://cluster.local/ns/shop/sa/{name}");
        let edges = [
            ((id("visitors"), "frontend".to_owned()), edge(9.0, 1.0)),
            ((id("frontend"), "catalog".to_owned()), edge(9.0, 9.0)),
            (("plaintext".to_owned(), "orders".to_owned()), edge(9.0, 0.0)),
        ];
        let traffic = Traffic { edges: edges.into(), at: Instant::now(), seconds: 9.0 };
        let expected = [("visitors", "frontend"), ("frontend", "catalog"), ("frontend", "orders")];
        let expected = expected.map(|(from, called)| Expected { caller: format!("/ns/shop/sa/{from}"), called });
        let silent = traffic.silent(&expected);
        assert_eq!(silent, ["/ns/shop/sa/frontend to catalog", "/ns/shop/sa/frontend to orders"]);
        assert!((traffic.rate() - 3.0).abs() < 1e-9);
    }
}
