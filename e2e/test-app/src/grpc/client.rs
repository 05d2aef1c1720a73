//! The gRPC client: one call of each kind, reported with status, metadata and trailers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::stream;
use serde_json::{Value, json};
use tonic::{
    Request, Status,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use crate::{
    proto::{
        health::{HealthCheckRequest, health_client::HealthClient},
        test::{Count, Failure, Message, echo_client::EchoClient},
    },
    response::headers,
};

/// The call.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `HOST:PORT`.
    target: String,
    /// What is called.
    #[arg(value_enum)]
    method: Method,
    /// Messages to send or to be sent.
    #[arg(long, default_value_t = 5)]
    messages: u64,
    /// Milliseconds between the messages of `stream`.
    #[arg(long, default_value_t = 0)]
    interval_ms: u64,
    /// What `unary` says.
    #[arg(long, default_value = "hello")]
    text: String,
    /// Status code that `fail` shall end with.
    #[arg(long, default_value_t = 9)]
    code: i32,
    /// Request metadata `NAME: VALUE`.
    #[arg(short = 'H', long = "header")]
    header: Vec<String>,
    /// Seconds in which it must be done.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Method {
    Unary,
    Stream,
    Collect,
    Chat,
    Fail,
    Health,
}

/// Answers `{code, message, sequences, text, pod, headers, trailers, seconds}` or `{error}` when there was no gRPC answer at all.
pub(crate) async fn run(args: Args) -> Result<Value> {
    let start = Instant::now();
    let mut value = match tokio::time::timeout(Duration::from_secs_f64(args.timeout), call(&args)).await {
        Ok(Ok(value)) => value,
        Ok(Err(e)) => json!({ "error": format!("{e:#}") }),
        Err(_) => json!({ "error": "timeout" }),
    };
    value["seconds"] = start.elapsed().as_secs_f64().into();
    Ok(value)
}

fn failed(status: &Status) -> Value {
    json!({
        "code": status.code() as i32, "message": status.message(),
        "trailers": headers(status.metadata().as_ref()),
    })
}

fn one(metadata: &MetadataMap, message: &Message) -> Value {
    json!({
        "code": 0, "sequences": [message.sequence], "text": message.text, "pod": message.pod,
        "headers": headers(metadata.as_ref()),
    })
}

fn with_metadata<T>(args: &Args, body: T) -> Result<Request<T>> {
    let mut request = Request::new(body);
    for line in &args.header {
        let (name, value) = line.split_once(':').with_context(|| format!("header {line:?} has no colon"))?;
        let name = tonic::metadata::MetadataKey::from_bytes(name.trim().to_lowercase().as_bytes())?;
        request.metadata_mut().insert(name, value.trim().parse()?);
    }
    Ok(request)
}

async fn call(args: &Args) -> Result<Value> {
    let endpoint = Endpoint::from_shared(format!("http://{}", args.target))?;
    let channel = endpoint.connect().await.context("connect")?;
    if matches!(args.method, Method::Health) {
        let request = with_metadata(args, HealthCheckRequest::default())?;
        return Ok(match HealthClient::new(channel).check(request).await {
            Ok(answer) => json!({ "code": 0, "health": answer.get_ref().status().as_str_name() }),
            Err(status) => failed(&status),
        });
    }
    let mut client = EchoClient::new(channel);
    let messages: Vec<_> = (0..args.messages)
        .map(|i| Message { sequence: i, text: format!("message {i};"), pod: String::new() })
        .collect();
    let answer = match args.method {
        Method::Unary => {
            let message = Message { sequence: 7, text: args.text.clone(), pod: String::new() };
            client.unary(with_metadata(args, message)?).await
        }
        Method::Collect => client.collect(with_metadata(args, stream::iter(messages))?).await,
        Method::Fail => {
            let failure = Failure { code: args.code, message: "as asked".into() };
            client.fail(with_metadata(args, failure)?).await
        }
        Method::Stream | Method::Chat | Method::Health => return several(args, client, messages).await,
    };
    Ok(match answer {
        Ok(answer) => one(answer.metadata(), answer.get_ref()),
        Err(status) => failed(&status),
    })
}

/// Calls whose answer is a stream.
async fn several(args: &Args, mut client: EchoClient<Channel>, messages: Vec<Message>) -> Result<Value> {
    let answer = if matches!(args.method, Method::Stream) {
        let count = Count { count: args.messages, interval_ms: args.interval_ms };
        client.stream(with_metadata(args, count)?).await
    } else {
        client.chat(with_metadata(args, stream::iter(messages))?).await
    };
    let mut answers = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(failed(&status)),
    };
    let (mut sequences, mut text, mut pod) = (Vec::new(), String::new(), String::new());
    loop {
        match answers.message().await {
            Ok(Some(message)) => {
                sequences.push(message.sequence);
                text.push_str(&message.text);
                pod = message.pod;
            }
            Ok(None) => break,
            Err(status) => return Ok(failed(&status)),
        }
    }
    let trailers = answers.trailers().await.ok().flatten().map(|t| headers(t.as_ref()));
    Ok(json!({ "code": 0, "sequences": sequences, "text": text, "pod": pod, "trailers": trailers }))
}
