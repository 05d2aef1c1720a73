//! Connections that are held for as long as the load runs: HTTP answers that never end, TCP connections that echo, gRPC calls and
//! WebSockets. Each ends with an event that came after the load was told to stop: one that is silent by then is lost.

pub(super) mod grpc;
pub(super) mod websocket;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::held::{With, pace};
use crate::target::{Target, connect};

/// Holds one `/stream` and checks its numbering.
pub(super) async fn hold_http(target: Target, with: With) {
    if let Err(e) = http(&target, &with).await {
        with.report.stream_lost(&format!("stream: {e:#}"));
    }
}

async fn http(target: &Target, With { report, stop, silence }: &With) -> Result<()> {
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(connect(target).await?)).await?;
    tokio::spawn(connection);
    let request =
        Request::get("/stream/100").header(http::header::HOST, &target.authority).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("request")?;
    ensure!(response.status().is_success(), "status {}", response.status().as_u16());
    report.stream_held();
    let (mut body, mut next, mut text) = (response.into_body(), 0u64, String::new());
    loop {
        let frame = timeout(*silence, body.frame()).await.context("silent")?;
        let Some(frame) = frame else { bail!("ended by the server") };
        let Ok(data) = frame.context("broken")?.into_data() else { continue };
        text.push_str(std::str::from_utf8(&data)?);
        while let Some((line, rest)) = text.split_once('\n') {
            ensure!(line == next.to_string(), "event {line} instead of {next}");
            next += 1;
            report.event();
            if *stop.borrow() {
                return Ok(());
            }
            text = rest.to_owned();
        }
    }
}

/// Holds one TCP connection and sends a number to and fro.
pub(super) async fn hold_tcp(target: Target, with: With) {
    if let Err(e) = tcp(&target, &with).await {
        with.report.stream_lost(&format!("tcp: {e:#}"));
    }
}

async fn tcp(target: &Target, With { report, stop, silence }: &With) -> Result<()> {
    let mut stream = connect(target).await?;
    let (mut number, mut back, mut pause) = (0u64, [0; 8], pace());
    loop {
        pause.tick().await;
        stream.write_all(&number.to_be_bytes()).await.context("send")?;
        timeout(*silence, stream.read_exact(&mut back)).await.context("silent")?.context("echo")?;
        ensure!(u64::from_be_bytes(back) == number, "another number came back");
        if number == 0 {
            report.stream_held();
        }
        number += 1;
        report.event();
        if *stop.borrow() {
            return Ok(());
        }
    }
}
