//! Opaque TCP: echo (the client speaks first), banner (the server speaks first), half-close in both, and the client.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{
    health::Health,
    listener::listen,
    pod::pod,
    target::{Target, connect},
};

/// The connection.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `HOST:PORT`.
    address: String,
    /// Wait for a banner before sending.
    #[arg(long)]
    banner: bool,
    /// Text to send; it must come back.
    #[arg(long, default_value = "ping")]
    send: String,
    /// Further bytes to send and get back.
    #[arg(long, default_value_t = 0)]
    bytes: usize,
    /// After the echo close only the sending side, then read what the server says of it.
    #[arg(long)]
    half_close: bool,
    /// Seconds in which it must be done.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
}

/// Echoes; when the client has closed its side, says how many bytes came and closes too.
pub(crate) async fn echo(mut stream: TcpStream) {
    let (mut count, mut buffer) = (0u64, vec![0; 16 << 10]);
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(n) => {
                count += n as u64;
                if stream.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    let _ = stream.write_all(format!("bye {count}\n").as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Greets before anything was said, then echoes.
pub(crate) async fn banner(mut stream: TcpStream) {
    if stream.write_all(format!("banner {}\n", pod()).as_bytes()).await.is_ok() {
        echo(stream).await;
    }
}

/// A port that listens only while `tcp` health is on: what a tcpSocket probe sees.
pub(crate) async fn health_port(port: u16, health: Arc<Health>) {
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    loop {
        if health.is_healthy("tcp") {
            let Ok(listener) = listen(port).await else {
                poll.tick().await;
                continue;
            };
            while health.is_healthy("tcp") {
                tokio::select! {
                    accepted = listener.accept() => drop(accepted),
                    _ = poll.tick() => {}
                }
            }
        }
        poll.tick().await;
    }
}

/// Answers `{banner, echoed, bye, connect_seconds, first_byte_seconds, seconds}` or `{error}`.
pub(crate) async fn run(args: Args) -> Result<Value> {
    match tokio::time::timeout(Duration::from_secs_f64(args.timeout), converse(&args)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Ok(json!({ "error": format!("{e:#}") })),
        Err(_) => Ok(json!({ "error": "timeout" })),
    }
}

async fn converse(args: &Args) -> Result<Value> {
    let start = Instant::now();
    let mut stream = BufReader::new(connect(&Target::parse(&args.address)?).await?);
    let connected = start.elapsed().as_secs_f64();
    let mut banner = String::new();
    if args.banner {
        stream.read_line(&mut banner).await.context("banner")?;
        ensure!(banner.ends_with('\n'), "closed before the banner");
    }
    stream.get_mut().write_all(args.send.as_bytes()).await.context("send")?;
    let mut back = vec![0; args.send.len()];
    stream.read_exact(&mut back).await.context("echo")?;
    ensure!(back == args.send.as_bytes(), "the echo differs: {:?}", String::from_utf8_lossy(&back));
    let first = start.elapsed().as_secs_f64();
    bulk(&mut stream, args.bytes).await?;
    let mut bye = String::new();
    if args.half_close {
        stream.get_mut().shutdown().await.context("half-close")?;
        stream.read_to_string(&mut bye).await.context("after the half-close")?;
    }
    Ok(json!({
        "banner": banner.trim_end(), "echoed": args.send.len() + args.bytes, "bye": bye.trim_end(),
        "connect_seconds": connected, "first_byte_seconds": first, "seconds": start.elapsed().as_secs_f64(),
    }))
}

/// Sends and receives at once, so that neither side's buffers limit it.
async fn bulk(stream: &mut BufReader<TcpStream>, count: usize) -> Result<()> {
    let data = crate::pattern::pattern(0, count);
    let (mut read, mut write) = tokio::io::split(stream);
    let mut back = vec![0; count];
    let (sent, got) = tokio::join!(write.write_all(&data), read.read_exact(&mut back));
    sent.context("send bulk")?;
    got.context("bulk echo")?;
    ensure!(back == data, "bulk came back changed");
    Ok(())
}
