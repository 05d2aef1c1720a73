//! What the proxies of pods say of themselves, and whether they stayed up.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use bowline_proxy::contract::bootstrap::ports;
use e2e::demo::metrics::Metrics;

use crate::context::{Context, pods};

/// What the proxies of several pods say of themselves, added up.
///
/// # Errors
/// When one cannot be scraped.
pub async fn scrape(cx: &Context, namespace: &str, selector: &str) -> Result<Metrics> {
    let mut all = Metrics::default();
    for pod in cx.pods(namespace, selector).await? {
        all.samples.extend(scrape_one(cx, pods::ip(&pod)?).await?.samples);
    }
    Ok(all)
}

/// What the proxy of one pod says of itself.
///
/// # Errors
/// When it cannot be scraped.
pub async fn scrape_one(cx: &Context, ip: IpAddr) -> Result<Metrics> {
    cx.scrape(ip, ports::METRICS).await
}

/// Sum of restarts of all containers of the pods that a selector finds.
///
/// # Errors
/// When the API server does not answer.
pub async fn restarts(cx: &Context, namespace: &str, selector: &str) -> Result<i32> {
    let pods = cx.pods(namespace, selector).await?;
    Ok(pods.iter().flat_map(pods::restarts).map(|(_, n)| n).sum())
}

/// As [`restarts`], when there shall be none.
///
/// # Errors
/// When there was one.
pub async fn no_restarts(cx: &Context, namespace: &str, selector: &str) -> Result<i32> {
    let count = restarts(cx, namespace, selector).await?;
    ensure!(count == 0, "{count} containers of {namespace} restarted");
    Ok(count)
}
