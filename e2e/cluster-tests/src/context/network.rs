//! From the test into the pod network: straight where it can be entered, else through the API server.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use kube::client::Body;
use tokio::net::TcpStream;

use super::{connect::Context, pods};
use e2e::demo::metrics::Metrics;

/// What an answer may take, on a machine that stands still meanwhile.
const ANSWER: Duration = Duration::from_secs(30);

impl Context {
    /// Opens a TCP connection from node 1, outside any pod: never through a sidecar of the client's.
    ///
    /// # Errors
    /// As connecting does; and when the cluster is the user's own, whose network cannot be entered.
    pub async fn dial(&self, ip: impl Into<IpAddr>, port: u16) -> Result<TcpStream> {
        let Some(reach) = &self.reach else {
            bail!("this needs the throw-away cluster, whose network can be entered: unset KUBECONFIG");
        };
        let to = SocketAddr::new(ip.into(), port);
        reach.dial(to).await.with_context(|| format!("cannot connect to {to}"))
    }

    /// One HTTP/1.1 GET to a pod, from node 1, or by the API server where the network cannot be entered: never through a sidecar of the
    /// client's.
    ///
    /// # Errors
    /// When there is no answer within half a minute; any status is an answer.
    pub async fn http_get(&self, ip: impl Into<IpAddr>, port: u16, path: &str) -> Result<http::Response<Bytes>> {
        let ip = ip.into();
        let exchange = async {
            if self.reach.is_none() {
                return self.proxied_get(ip, port, path).await;
            }
            let stream = self.dial(ip, port).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let host = SocketAddr::new(ip, port).to_string();
            let request = http::Request::get(path).header("host", host).body(Empty::<Bytes>::new())?;
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            connection.abort();
            Ok(http::Response::from_parts(head, body))
        };
        let answer = tokio::time::timeout(ANSWER, exchange).await;
        answer.with_context(|| format!("no answer from http://{ip}:{port}{path}"))?
    }

    /// The same request, made by the API server on our behalf, as `kubectl get --raw` asks for it.
    async fn proxied_get(&self, ip: IpAddr, port: u16, path: &str) -> Result<http::Response<Bytes>> {
        let found = ListParams::default().fields(&format!("status.podIP={ip}"));
        let pods = Api::<Pod>::all(self.client()).list(&found).await?.items;
        // A pod that has ended keeps its address in its status, and another may have it by now.
        let pod = pods.iter().find(|pod| pods::is_ready(pod)).or(pods.first());
        let pod = pod.with_context(|| format!("no pod has the address {ip}"))?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{}:{port}/proxy{path}", pods::name(pod));
        let answer = self.client().send(http::Request::get(uri).body(Body::empty())?).await?;
        let (head, body) = answer.into_parts();
        Ok(http::Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    /// Scrapes `http://IP:PORT/metrics`.
    ///
    /// # Errors
    /// When there is no page of metrics.
    pub async fn scrape(&self, ip: impl Into<IpAddr>, port: u16) -> Result<Metrics> {
        let page = self.http_get(ip, port, "/metrics").await?;
        anyhow::ensure!(page.status().is_success(), "/metrics answered {}", page.status());
        Metrics::parse(std::str::from_utf8(page.body())?)
    }
}
