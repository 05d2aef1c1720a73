//! WebSocket (RFC 6455): echo server and client.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use crate::{
    response::{Body, text},
    target::{Target, connect},
};

/// What to send.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `http://HOST[:PORT]/PATH`.
    url: String,
    /// Messages to send and receive, one after the other.
    #[arg(long, default_value_t = 10)]
    messages: u64,
    /// Bytes of each message.
    #[arg(long, default_value_t = 1000)]
    size: usize,
    /// What each message begins with.
    #[arg(long, default_value = "")]
    text: String,
    /// Seconds in which it must be done.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
}

/// Answers an upgrade request, then echoes until the client closes.
pub(crate) fn accept(mut request: Request<Incoming>) -> Response<Body> {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() else {
        return text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket\n".into());
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let config = Some(WebSocketConfig::default());
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, config).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Runs the client and reports `{messages, echoed, closed, error}`.
pub(crate) async fn run(args: Args) -> Result<Value> {
    let start = Instant::now();
    let done = tokio::time::timeout(Duration::from_secs_f64(args.timeout), converse(&args)).await;
    let (echoed, closed, error) = match done {
        Ok(Ok((echoed, closed))) => (echoed, closed, None),
        Ok(Err(e)) => (0, false, Some(format!("{e:#}"))),
        Err(_) => (0, false, Some("timeout".to_owned())),
    };
    Ok(json!({
        "messages": args.messages, "echoed": echoed, "closed": closed, "error": error,
        "seconds": start.elapsed().as_secs_f64(),
    }))
}

async fn converse(args: &Args) -> Result<(u64, bool)> {
    let target = Target::parse(&args.url)?;
    let stream = connect(&target).await?;
    let url = format!("ws://{}{}", target.authority, target.path);
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.context("handshake")?;
    let mut echoed = 0;
    for i in 0..args.messages {
        let text = format!("{}{i}:{}", args.text, "x".repeat(args.size));
        socket.send(Message::text(text.clone())).await.context("send")?;
        let back = socket.next().await.context("closed too early")??;
        anyhow::ensure!(back.to_text()? == text, "message {i} came back changed");
        echoed += 1;
    }
    socket.close(None).await.context("close")?;
    // The server's close frame ends the stream.
    let closed = loop {
        match socket.next().await {
            Some(Ok(Message::Close(_))) => {}
            Some(Ok(_)) => break false,
            Some(Err(_)) | None => break true,
        }
    };
    Ok((echoed, closed))
}
