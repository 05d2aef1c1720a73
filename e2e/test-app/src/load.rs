//! Load at a fixed rate: requests are due whether or not earlier ones were answered (an open model), and their time counts from then, some
//! on fresh connections, the rest on a pool; beside them long-lived streams are held. What fails is counted by kind.

mod held;
mod report;
mod streams;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    sync::{AcquireError, Semaphore, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};

use self::held::With;
pub(crate) use self::report::Report;
use crate::target::{Target, connect};

/// What load to make.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Args {
    /// `http://HOST[:PORT]/PATH`; several are taken in turn.
    #[arg(long, required = true)]
    url: Vec<String>,
    /// Requests per second.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Seconds that it lasts; load that runs by itself may be stopped earlier.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Percentage of requests on a connection of their own.
    #[arg(long, default_value_t = 20)]
    fresh_percent: u32,
    /// Long-lived HTTP streams (`/stream`) to hold, spread over the URLs' hosts.
    #[arg(long, default_value_t = 0)]
    streams: usize,
    /// `HOST:PORT` of a TCP echo to hold a connection to; several may be given.
    #[arg(long)]
    tcp: Vec<String>,
    /// `HOST:PORT` of a gRPC server to hold a call to; several may be given.
    #[arg(long)]
    #[serde(default)]
    grpc: Vec<String>,
    /// `http://HOST[:PORT]/PATH` of a WebSocket to hold; several may be given.
    #[arg(long)]
    #[serde(default)]
    websocket: Vec<String>,
    /// Seconds after it was due at which a request has failed. Generous: a machine may stand still for some of them, and what hangs hangs
    /// for good.
    #[arg(long, default_value_t = 30.0)]
    timeout: f64,
    /// Seconds of silence after which a stream is lost; as generous, for the same reason.
    #[arg(long, default_value_t = 30.0)]
    silence: f64,
    /// Requests in flight at most: what is due beyond that waits its turn. After a machine has stood still, all that became due meanwhile
    /// comes at once.
    #[arg(long, default_value_t = 1000)]
    in_flight: usize,
}

/// Runs to the end and answers the report.
pub(crate) async fn run(args: Args) -> Result<Value> {
    let report = Arc::new(Report::default());
    drive(args, Arc::clone(&report), stop()).await?;
    Ok(report.json())
}

/// Tells load to end: `true` once it shall. Load that ends by itself sets it too.
pub(crate) type Stop = watch::Sender<bool>;

/// Not yet.
pub(crate) fn stop() -> Stop {
    watch::Sender::new(false)
}

type Pool = Client<HttpConnector, Empty<Bytes>>;

/// Runs load into a report until its time is over or it is told to stop; then everything that was sent gets its verdict.
pub(crate) async fn drive(args: Args, report: Arc<Report>, stop: Stop) -> Result<()> {
    ensure!(args.rate > 0.0 && args.rate <= 20_000.0, "--rate must be above 0 and at most 20000");
    ensure!((1..=20_000).contains(&args.in_flight), "--in-flight must be above 0 and at most 20000");
    let targets: Vec<Target> = args.url.iter().map(|u| Target::parse(u)).collect::<Result<_>>()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let pool: Pool = Client::builder(TokioExecutor::new()).build(connector);
    let room = Arc::new(Semaphore::new(args.in_flight));
    let (timeout, silence) = (Duration::from_secs_f64(args.timeout), Duration::from_secs_f64(args.silence));
    let mut held = hold(&args, &targets, &report, &stop)?;
    let mut tasks = JoinSet::new();
    let mut due = tokio::time::interval(Duration::from_secs_f64(1.0 / args.rate));
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (start, mut number, mut stopped) = (Instant::now(), 0u64, stop.subscribe());
    while start.elapsed().as_secs_f64() < args.seconds {
        let next = async {
            let at = due.tick().await;
            Ok::<_, AcquireError>((at, Arc::clone(&room).acquire_owned().await?))
        };
        let (at, permit) = tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => break,
            next = next => next?,
        };
        while tasks.try_join_next().is_some() {}
        report.sent();
        let target = targets[(number % targets.len() as u64) as usize].clone();
        // Spreads the fresh ones evenly, whatever the number of targets.
        let turn = number / targets.len() as u64;
        let fresh = (turn * u64::from(args.fresh_percent)) % 100 < u64::from(args.fresh_percent);
        number += 1;
        let (report, pool) = (Arc::clone(&report), pool.clone());
        tasks.spawn(async move {
            let done =
                tokio::time::timeout_at(at + timeout, request(&target, fresh.then_some(()), &pool, &report)).await;
            match done {
                Ok(Ok(())) => report.succeeded(at.elapsed()),
                Ok(Err(kind)) => report.failed(&kind),
                Err(_) => report.failed(if fresh { "timeout (fresh)" } else { "timeout" }),
            }
            drop(permit);
        });
    }
    // Each of them ends by its own deadline: whatever hangs is counted as failed, and not forgotten.
    while tasks.join_next().await.is_some() {}
    stop.send_replace(true);
    let last = async { while held.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(silence + held::GRACE, last).await;
    for _ in 0..held.len() {
        report.stream_lost("never came to an end");
    }
    Ok(())
}

/// Starts the streams that are held.
fn hold(args: &Args, targets: &[Target], report: &Arc<Report>, stop: &Stop) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let silence = Duration::from_secs_f64(args.silence);
    let with = || With { report: Arc::clone(report), stop: stop.subscribe(), silence };
    for i in 0..args.streams {
        tasks.spawn(streams::hold_http(targets[i % targets.len()].clone(), with()));
    }
    for address in &args.tcp {
        tasks.spawn(streams::hold_tcp(Target::parse(address)?, with()));
    }
    for address in &args.grpc {
        tasks.spawn(streams::grpc::hold(Target::parse(address)?, with()));
    }
    for url in &args.websocket {
        tasks.spawn(streams::websocket::hold(Target::parse(url)?, with()));
    }
    Ok(tasks)
}

/// One request; the error is its kind.
async fn request(target: &Target, fresh: Option<()>, pool: &Pool, report: &Report) -> Result<(), String> {
    let uri: Uri = format!("http://{}{}", target.authority, target.path).parse().map_err(|_| "uri".to_owned())?;
    let response = if fresh.is_some() {
        report.fresh();
        let stream = connect(target).await.map_err(|e| kind("connect (fresh)", &e.root_cause().to_string()))?;
        let (mut sender, connection) =
            conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| kind("handshake", &e.to_string()))?;
        tokio::spawn(connection);
        let request = Request::get(target.path.as_str())
            .header(http::header::HOST, &target.authority)
            .header(http::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| kind("request (fresh)", &deepest(&e)))?;
        let (parts, body) = response.into_parts();
        body.collect().await.map_err(|e| kind("body (fresh)", &deepest(&e)))?;
        parts
    } else {
        let response = pool.get(uri).await.map_err(|e| kind("request", &deepest(&e)))?;
        let (parts, body) = response.into_parts();
        body.collect().await.map_err(|e| kind("body", &deepest(&e)))?;
        parts
    };
    if response.status.is_success() {
        return Ok(());
    }
    let reason = response.headers.get("bowline-reason").and_then(|v| v.to_str().ok()).unwrap_or("by the application");
    Err(format!("status {} {reason}", response.status.as_u16()))
}

fn kind(step: &str, cause: &str) -> String {
    format!("{step}: {cause}")
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
