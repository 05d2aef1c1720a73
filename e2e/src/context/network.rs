//! From the test straight into the pod network.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Context;
use super::metrics::Metrics;

const ANSWER: Duration = Duration::from_secs(10);

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

    /// One HTTP/1.1 GET from node 1.
    ///
    /// # Errors
    /// When there is no answer within ten seconds; any status is an answer.
    pub async fn http_get(&self, ip: impl Into<IpAddr>, port: u16, path: &str) -> Result<http::Response<Bytes>> {
        let ip = ip.into();
        let exchange = async {
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
