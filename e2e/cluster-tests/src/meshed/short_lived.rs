//! A Mesh whose leaves end soon: what becomes of its members when nobody renews them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bowline_proxy::contract::{bootstrap::ports, reason::Reason};
use serde_json::json;
use tokio::time::sleep;

use super::app::App;
use super::caller::Caller;
use super::shared::SOON;
use super::{app, rotation};
use crate::context::{Context, Figures};

/// Name of the Mesh and of the namespace.
const MESH: &str = "e2e-gone-short";
/// How long a leaf lives: near the shortest life that a Mesh may ask for, with room for the pauses of a machine that stands still now and then.
const LEAF: Duration = Duration::from_secs(100);
/// Seconds before the first leaf's end at which a new handshake must work: looking takes a moment, and where the machine stands still, several.
const BEFORE: i64 = 20;
/// The same for one that may come too late, and for load, which goes on at least until then. Load that is stopped later has proved more than it
/// had to: connections that are there outlive the leaf.
const LAST: i64 = 5;
/// Seconds after the last leaf's end at which no handshake may.
const AFTER: i64 = 3;
/// Handshakes at most until one is refused for what it is.
const TRIES: u32 = 5;

/// A client and a server that talk.
pub struct ShortLived<'a> {
    cx: &'a Context,
    namespace: String,
    client: Caller<'a>,
    server: Caller<'a>,
}

impl<'a> ShortLived<'a> {
    /// Makes the Mesh, its members and their load.
    ///
    /// # Errors
    /// When they do not talk.
    pub async fn deploy(cx: &'a Context) -> Result<Self> {
        rotation::mesh(cx, MESH, json!({ "leafLifetime": format!("{}s", LEAF.as_secs()) })).await?;
        let namespace = cx.temp_ns(MESH, Some(MESH)).await?;
        app::deploy(cx, &namespace, &[App::new("server"), App::new("client")]).await?;
        let client = Caller::of(cx, &namespace, "client").await?;
        let server = Caller::of(cx, &namespace, "server").await?;
        let load = ["--url", "http://server/", "--rate", "30", "--fresh-percent", "50", "--streams", "2"];
        client.steady_load(&load, 2).await?;
        Ok(Self { cx, namespace, client, server })
    }

    /// Everything works right up to the first leaf's end, new handshakes among it; after the last one's end a handshake fails, with the
    /// reason. To be called when the operator is away.
    ///
    /// # Errors
    /// When anything of that is not so.
    pub async fn until_the_end(&self) -> Result<Figures> {
        let ends = [self.end(self.client.ip).await?, self.end(self.server.ip).await?];
        let (first, last) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
        let left = first - now();
        ensure!(left > BEFORE, "the first leaf ends in {left} s: there was no time to see anything");
        // Time is what is tested here, and not waited for anything.
        until(first - BEFORE).await;
        // Ports that were never called: each connection between the proxies is a new one.
        let handshake = self.client.call(&["tcp", "server:9000", "--half-close"]).await;
        ensure!(now() <= first, "the leaf ended while this was looked at: it proves nothing");
        handshake.context("a handshake shortly before the leaf's end")?;
        until(first - LAST).await;
        let handshake = self.client.call(&["tcp", "server:5555", "--banner", "--half-close"]).await;
        // One that had no time proves nothing: then the one before has to do.
        if now() <= first {
            handshake.context("a handshake right before the leaf's end")?;
        }
        let load = self.client.stop_load().await?;
        load.flawless(2).context("load up to the leaf's end")?;

        until(last + AFTER).await;
        self.refused().await?;
        let ready = self.client.call(&["get", &format!("http://127.0.0.1:{}/ready", ports::ADMIN)]).await?;
        let told = ready["body"].as_str().unwrap_or_default();
        ensure!(ready["status"] == 503 && told.contains("the leaf expired"), "/ready does not tell it: {ready}");
        let figures = Figures::new().with("leaf_seconds", LEAF.as_secs());
        Ok(figures.with("sent_to_leaf_end", load.sent).with("failed_to_leaf_end", load.failed))
    }

    /// A handshake fails, with the reason; where a connection took too long to come about, the next attempt tells it.
    async fn refused(&self) -> Result<()> {
        let report = self.client.call(&["grpc", "server:9090", "unary", "--timeout", "30"]).await?;
        ensure!(report["code"] != 0, "a handshake after the leaf's end succeeded: {report}");
        for _ in 0..TRIES {
            let report = self.client.call(&["get", "http://server:81/", "--h2", "--timeout", "30"]).await?;
            let reason = &report["headers"]["bowline-reason"];
            if reason == Reason::TlsFailed.as_str() {
                return Ok(());
            }
            ensure!(reason == Reason::ConnectFailed.as_str(), "a handshake after the leaf's end: {report}");
        }
        bail!("{TRIES} times there was no connection to shake hands on after the leaf's end")
    }

    /// The operator is back since `start`: all works again without anybody's help. Removes the Mesh.
    ///
    /// # Errors
    /// When it does not.
    pub async fn back(self, figures: &mut Figures, start: Instant) -> Result<()> {
        let again = || async {
            let call = self.client.call(&["grpc", "server:9090", "unary"]).await?;
            ensure!(call["code"] == 0, "{call}");
            for ip in [self.client.ip, self.server.ip] {
                let left = self.end(ip).await? - now();
                ensure!(left > 0, "the leaf of the pod at {ip} ended {} s ago", -left);
            }
            Ok(())
        };
        self.cx.eventually(2 * SOON, "members do not come back by themselves", again).await?;
        figures.set("leaves_back_seconds", (start.elapsed().as_secs_f64() * 10.0).round() / 10.0);
        for url in ["http://server/", "http://server:8088/"] {
            self.client.get(url).await?;
        }
        let restarts = super::proxies::restarts(self.cx, &self.namespace, "").await?;
        ensure!(restarts == 0, "{restarts} containers restarted");
        super::mesh::delete(self.cx, MESH).await
    }

    /// When the leaf of a pod ends, in Unix seconds.
    async fn end(&self, ip: IpAddr) -> Result<i64> {
        Ok(super::proxies::scrape_one(self.cx, ip).await?.sum("bowline_leaf_not_after_seconds", &[]) as i64)
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

async fn until(second: i64) {
    sleep(Duration::from_secs(u64::try_from(second - now()).unwrap_or(0))).await;
}
