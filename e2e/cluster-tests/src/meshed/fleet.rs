//! Many meshed pods that talk to each other all the time in every way that an application can: half of the requests over fresh
//! connections, the rest over pooled ones, and streams of every kind that are held.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::app;
use super::app::App;
use super::caller::Caller;
use super::caller::Load;
use super::shared::SOON;
use crate::context::{Context, pods};

/// Name of the application whose pods come and go.
pub const GUEST: &str = "guest";
/// Streams that each client holds: two of HTTP, one of TCP, of gRPC and of WebSocket each.
const STREAMS: u64 = 5;

/// How many pods, and how busy.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// That are called and stay: the streams are held to them.
    pub servers: u32,
    /// That call.
    pub clients: u32,
    /// That are called, come and go.
    pub guests: u32,
    /// Requests per second of each client.
    pub rate: u32,
}

/// The applications of one test.
pub struct Fleet<'a> {
    cx: &'a Context,
    /// Where they are.
    pub namespace: String,
    size: Size,
    clients: Vec<Caller<'a>>,
}

impl<'a> Fleet<'a> {
    /// Deploys them, spread over the nodes.
    ///
    /// # Errors
    /// When they are not ready in a minute.
    pub async fn deploy(cx: &'a Context, namespace: &str, size: Size) -> Result<Self> {
        let app = |name: &str, replicas| App::new(name).replicas(replicas).spec(spread(name));
        // Who is deleted serves on until nobody is sent there any more, not even by those who have just lost their control plane.
        let linger = json!({ "args": ["serve", "--linger", "20"] });
        let guests = app(GUEST, size.guests).container(linger).spec(json!({ "terminationGracePeriodSeconds": 60 }));
        let apps = [app("server", size.servers), app("client", size.clients), guests];
        app::deploy(cx, namespace, &apps).await?;
        let clients = cx.pods(namespace, "app=client").await?;
        let clients = clients.iter().map(|pod| Caller::at(cx, pod)).collect::<Result<Vec<_>>>()?;
        Ok(Self { cx, namespace: namespace.into(), size, clients })
    }

    /// Fails unless there are at least so many pods, on at least two nodes.
    ///
    /// # Errors
    /// Says how many there are.
    pub async fn spans(&self, wanted: usize) -> Result<usize> {
        let all = self.cx.pods(&self.namespace, "app").await?;
        let nodes: BTreeSet<_> = all.iter().filter_map(|p| p.spec.as_ref()?.node_name.clone()).collect();
        ensure!(all.len() >= wanted, "{} pods instead of {wanted}", all.len());
        ensure!(nodes.len() >= 2, "all pods are on {nodes:?}: `cargo e2e up --nodes 2`");
        Ok(all.len())
    }

    /// Starts the load of every client, and waits until all streams are up.
    ///
    /// # Errors
    /// When they are not.
    pub async fn start(&self) -> Result<()> {
        let (rate, guests) = (self.size.rate.to_string(), format!("http://{GUEST}/"));
        let urls = ["--url", "http://server/", "--url", "http://server:8088/", "--url", &guests];
        let how = ["--rate", &rate, "--fresh-percent", "50", "--streams", "2"];
        let held = ["--tcp", "server:9000", "--grpc", "server:9090", "--websocket", "http://server/ws"];
        let args = [&urls[..], &how[..], &held[..]].concat();
        try_join_all(self.clients.iter().map(|client| client.start_load(&args))).await?;
        self.cx
            .eventually(SOON, "not all streams came up", || async {
                let load = self.load().await?;
                let (held, wanted) = (load.streams_held, self.streams());
                ensure!(held == wanted, "{held} of {wanted} are held: {}", load.errors);
                Ok(())
            })
            .await
    }

    /// What became of the load so far.
    ///
    /// # Errors
    /// When it was not started.
    pub async fn load(&self) -> Result<Load> {
        sum(try_join_all(self.clients.iter().map(Caller::load)).await?)
    }

    /// Ends it; fails when a request failed or a stream was lost.
    ///
    /// # Errors
    /// Lists the kinds of failure.
    pub async fn stop(&self) -> Result<Load> {
        let load = sum(try_join_all(self.clients.iter().map(Caller::stop_load)).await?)?;
        load.flawless(self.streams())?;
        ensure!(load.fresh_connections * 100 >= load.sent * 45, "too few fresh connections: {load:?}");
        Ok(load)
    }

    /// Restarts of all containers of all its pods that are there.
    ///
    /// # Errors
    /// When there was one; says of which.
    pub async fn no_restarts(&self) -> Result<i32> {
        for pod in self.cx.pods(&self.namespace, "app").await? {
            let restarted: Vec<_> = pods::restarts(&pod).into_iter().filter(|(_, n)| *n > 0).collect();
            ensure!(restarted.is_empty(), "{} restarted: {restarted:?}", pods::name(&pod));
        }
        Ok(0)
    }

    fn streams(&self) -> u64 {
        STREAMS * self.clients.len() as u64
    }
}

fn sum(loads: Vec<Load>) -> Result<Load> {
    loads.into_iter().reduce(|all, one| all.and(&one)).context("no client")
}

/// Evenly over the nodes.
fn spread(app: &str) -> Value {
    json!({ "topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": { "app": app } },
    }]})
}
