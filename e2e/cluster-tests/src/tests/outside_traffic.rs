//! What is no member's business works as before: the API server, nodes, pods without a sidecar, pod addresses.
//!
//! Seen to fail: a proxy that answered in a stranger's stead, or changed what is said, gives another answer than the stranger's own.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Api;
use serde_json::json;

use crate::context::{Context, Figures, pods};
use crate::meshed::{self, App, Caller, MESH, SOON, app, spiffe};

/// What a TLS server of Go's says to who speaks plain HTTP to it.
const PLAIN_TO_TLS: &str = "Client sent an HTTP request to an HTTPS server";

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-outside", Some(MESH)).await?;
    let outside = cx.temp_ns("e2e-outside-plain", None).await?;
    app::deploy(cx, &ns, &[App::new("server").replicas(2), App::new("client")]).await?;
    app::deploy(cx, &outside, &[App::new("plain")]).await?;
    let client = Caller::of(cx, &ns, "client").await?;

    api_server(cx, &client).await.context("the API server")?;
    node(cx, &client).await.context("a node")?;
    unmeshed(cx, &client, &outside).await.context("a pod outside the mesh")?;
    pod_address(cx, &ns, &client).await.context("a member's own address")?;
    closed(&client, &outside, cx).await.context("what does not answer")?;
    Ok(Figures::new().with("container_restarts", meshed::no_restarts(cx, &ns, "").await?))
}

async fn api_server(cx: &Context, client: &Caller<'_>) -> Result<()> {
    let api = Api::<Service>::namespaced(cx.client(), "default").get("kubernetes").await?;
    let address = api.spec.and_then(|s| s.cluster_ip).context("the API server's Service has no address")?;
    for host in ["kubernetes.default.svc", &address] {
        let report = client.call(&["get", &format!("http://{host}:443/")]).await?;
        ensure!(report["body"].as_str().is_some_and(|b| b.contains(PLAIN_TO_TLS)), "{host}: {report}");
    }
    // TLS all the way: the certificate is the API server's own, or the handshake fails.
    let ca = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
    let version = client.call(&["get", "https://kubernetes.default.svc/version", "--ca", ca]).await?;
    ensure!(version["body"].as_str().is_some_and(|b| b.contains("gitVersion")), "/version over TLS: {version}");
    Ok(())
}

async fn node(cx: &Context, client: &Caller<'_>) -> Result<()> {
    for node in Api::<Node>::all(cx.client()).list(&Default::default()).await? {
        let addresses = node.status.and_then(|s| s.addresses).unwrap_or_default();
        let ip = addresses.into_iter().find(|a| a.type_ == "InternalIP").context("a node without address")?.address;
        let report = client.call(&["get", &format!("http://{ip}:10250/")]).await?;
        ensure!(report["body"].as_str().is_some_and(|b| b.contains(PLAIN_TO_TLS)), "kubelet of {ip}: {report}");
    }
    Ok(())
}

/// By Service, by address and by undeclared port; the other side sees plain requests from the pod's own address.
async fn unmeshed(cx: &Context, client: &Caller<'_>, outside: &str) -> Result<()> {
    let plain = Caller::of(cx, outside, "plain").await?;
    let host = format!("plain.{outside}");
    for url in [format!("http://{host}/"), format!("http://{host}:8088/"), format!("http://{}:8080/", plain.ip)] {
        let saw = client.echo(&url).await?;
        ensure!(saw["pod"] == plain.pod.as_str(), "{url}: {saw}");
        ensure!(saw["peer"] == client.ip.to_string(), "{url}: the caller's address is hidden: {saw}");
    }
    let talk = client.call(&["tcp", &format!("{host}:5555"), "--banner", "--half-close"]).await?;
    ensure!(talk["bye"] == "bye 4", "{talk}");
    let call = client.call(&["grpc", &format!("{host}:9090"), "chat"]).await?;
    ensure!(call["sequences"] == json!([0, 1, 2, 3, 4]), "{call}");
    let chat = client.call(&["ws", &format!("http://{host}/ws")]).await?;
    ensure!(chat["echoed"] == 10, "{chat}");
    Ok(())
}

/// Straight to a member's address it is mutual TLS all the same.
async fn pod_address(cx: &Context, ns: &str, client: &Caller<'_>) -> Result<()> {
    let peer = spiffe(ns, "client");
    for pod in cx.pods(ns, "app=server").await? {
        let ip = pods::ip(&pod)?;
        let saw = client.echo(&format!("http://{ip}:8080/")).await?;
        ensure!(saw["pod"] == pods::name(&pod).as_str(), "{ip}: {saw}");
        client.call(&["tcp", &format!("{ip}:5555"), "--banner", "--half-close"]).await?;
        let metrics = meshed::scrape_one(cx, ip).await?;
        let labels = [("direction", "inbound"), ("peer", peer.as_str())];
        ensure!(metrics.sum("bowline_http_requests_total", &labels) >= 1.0, "{ip} was not called as {peer}");
        ensure!(metrics.sum("bowline_tcp_connections_total", &labels) >= 1.0, "{ip} was not connected to as {peer}");
    }
    Ok(())
}

/// Nothing listens: an error soon, not silence.
async fn closed(client: &Caller<'_>, outside: &str, cx: &Context) -> Result<()> {
    let plain: Pod = cx.ready_pod(outside, "app=plain", SOON).await?;
    let report = client.run(&["get", &format!("http://{}:4444/", pods::ip(&plain)?), "--timeout", "15"]).await?;
    let gateway = report["status"].as_u64().is_some_and(|s| (502..=504).contains(&s));
    let error = report["error"].as_str().is_some_and(|e| e != "timeout");
    ensure!(gateway || error, "a closed port answered {report}");
    let talk = client.run(&["tcp", &format!("{}:4444", pods::ip(&plain)?), "--timeout", "15"]).await?;
    ensure!(talk["error"].as_str().is_some_and(|e| e != "timeout"), "a closed port: {talk}");
    Ok(())
}
