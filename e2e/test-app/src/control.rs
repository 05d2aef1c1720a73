//! The control port of a `serve` process, loopback only, and the command that speaks to it: load that goes on by itself while the
//! control plane is away, health switches, counters of lifecycle hooks.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::Subcommand;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinHandle};

use crate::{
    health::Health,
    load::{self, Report, Stop},
    pod::pod,
    response::{Body, json_answer, text},
};

/// Default control port.
pub(crate) const PORT: u16 = 8099;

/// What the command waits for, at most: far more than an answer over loopback takes, for a machine may stand still meanwhile.
const ANSWER: Duration = Duration::from_secs(30);
/// The same when load is stopped: what is in flight gets its answer or its timeout first, and then streams their last event or their silence.
const DRAINED: Duration = Duration::from_secs(90);

/// What the control port works on.
pub(crate) struct State {
    health: Arc<Health>,
    load: Mutex<Option<Running>>,
}

/// Load that goes on by itself.
struct Running {
    report: Arc<Report>,
    stop: Stop,
    task: JoinHandle<()>,
}

impl State {
    /// No load runs at first.
    pub(crate) fn new(health: Arc<Health>) -> Self {
        Self { health, load: Mutex::new(None) }
    }

    fn start(&self, args: load::Args) {
        let report = Arc::new(Report::default());
        let (into, stop) = (Arc::clone(&report), load::stop());
        let told = stop.clone();
        let task = tokio::spawn(async move {
            if let Err(e) = load::drive(args, Arc::clone(&into), told).await {
                into.failed(&format!("{e:#}"));
            }
        });
        if let Some(old) = self.replace(Some(Running { report, stop, task })) {
            old.task.abort();
        }
    }

    /// Ends the load; its report, once everything that was sent has its verdict.
    async fn stop(&self) -> Value {
        let Some(Running { report, stop, task }) = self.replace(None) else { return Value::Null };
        stop.send_replace(true);
        if let Err(e) = task.await {
            report.failed(&format!("load: {e}"));
        }
        report.json()
    }

    fn replace(&self, new: Option<Running>) -> Option<Running> {
        std::mem::replace(&mut *self.load.lock().unwrap_or_else(PoisonError::into_inner), new)
    }

    fn report(&self) -> Value {
        let load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        load.as_ref().map_or(Value::Null, |Running { report, task, .. }| {
            let mut value = report.json();
            value["running"] = (!task.is_finished()).into();
            value
        })
    }
}

/// Serves one connection of the control port.
pub(crate) async fn serve(stream: TcpStream, state: Arc<State>) {
    let service = hyper::service::service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(request, &state).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, state: &State) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        (Method::POST, ["load"]) => {
            let Ok(body) = Limited::new(request.into_body(), 1 << 16).collect().await else {
                return text(StatusCode::BAD_REQUEST, "body is missing or too large\n".into());
            };
            match serde_json::from_slice(&body.to_bytes()) {
                Ok(args) => state.start(args),
                Err(e) => return text(StatusCode::BAD_REQUEST, format!("{e}\n")),
            }
            json_answer(&json!({ "started": true }))
        }
        (Method::GET, ["load"]) => json_answer(&state.report()),
        (Method::DELETE, ["load"]) => json_answer(&state.stop().await),
        (Method::PUT, ["health", protocol, to @ ("on" | "off")]) => match state.health.switch(protocol) {
            Some(switch) => {
                switch.store(*to == "on", Ordering::Relaxed);
                json_answer(&json!({ *protocol: to }))
            }
            None => text(StatusCode::NOT_FOUND, format!("protocol {protocol:?}: use http, tcp, grpc or exec\n")),
        },
        (Method::GET, ["health", protocol]) => {
            let status =
                if state.health.is_healthy(protocol) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, format!("{}\n", status.as_u16()))
        }
        (Method::POST, ["die"]) => {
            tokio::spawn(async {
                // After the answer is out.
                tokio::time::sleep(Duration::from_millis(100)).await;
                std::process::exit(3);
            });
            json_answer(&json!({ "dying": true }))
        }
        (Method::GET, ["hooks"]) => json_answer(&json!({ "pod": pod(), "hooks": state.health.hooks() })),
        _ => text(StatusCode::NOT_FOUND, "no such thing\n".into()),
    }
}

/// What to tell the `serve` process.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Its control port.
    #[arg(long, default_value_t = PORT)]
    port: u16,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Starts load; what ran before is stopped.
    Start(load::Args),
    /// Prints the report of the load so far.
    Report,
    /// Stops the load, waits for what is in flight and prints its report.
    Stop,
    /// Turns the health of `http`, `tcp`, `grpc` or `exec` `on` or `off`.
    Health {
        /// Which.
        protocol: String,
        /// `on` or `off`.
        to: String,
    },
    /// Exits with 0 while the protocol is healthy: what an exec probe runs.
    Check {
        /// Which.
        protocol: String,
    },
    /// Prints how often which lifecycle hook was called.
    Hooks,
    /// Ends the process with exit code 3.
    Die,
}

/// Carries a command out and answers what the `serve` process said.
pub(crate) async fn run(args: Args) -> Result<Value> {
    let (method, path, body) = match &args.what {
        What::Start(load) => (Method::POST, "/load".to_owned(), serde_json::to_vec(load)?),
        What::Report => (Method::GET, "/load".to_owned(), Vec::new()),
        What::Stop => (Method::DELETE, "/load".to_owned(), Vec::new()),
        What::Health { protocol, to } => (Method::PUT, format!("/health/{protocol}/{to}"), Vec::new()),
        What::Check { protocol } => (Method::GET, format!("/health/{protocol}"), Vec::new()),
        What::Die => (Method::POST, "/die".to_owned(), Vec::new()),
        What::Hooks => (Method::GET, "/hooks".to_owned(), Vec::new()),
    };
    let call = ask(args.port, method, path, body);
    let limit = if matches!(args.what, What::Stop) { DRAINED } else { ANSWER };
    let answer = tokio::time::timeout(limit, call).await;
    let (status, body) = answer.with_context(|| format!("no answer in {} s", limit.as_secs()))??;
    let told = String::from_utf8_lossy(&body).trim_end().to_owned();
    if !status.is_success() {
        bail!("{status}: {told}");
    }
    Ok(serde_json::from_str(&told).unwrap_or(Value::String(told)))
}

async fn ask(port: u16, method: Method, path: String, body: Vec<u8>) -> Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.with_context(|| format!("control port {port}"))?;
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
