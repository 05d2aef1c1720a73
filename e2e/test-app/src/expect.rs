//! An upload with `Expect: 100-continue` (RFC 9110, section 10.1.1), byte by byte: no HTTP library lets a client see the interim
//! answer before it sends the body.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{
    pattern::pattern,
    target::{Target, connect},
};

/// The upload.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `http://HOST[:PORT]/PATH`.
    url: String,
    /// Bytes of the body.
    #[arg(long, default_value_t = 1000)]
    body: usize,
    /// Seconds in which it must be done.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
}

/// Answers `{interim, status, body}`; `interim` is null when the final answer came at once.
pub(crate) async fn run(args: Args) -> Result<Value> {
    match tokio::time::timeout(Duration::from_secs_f64(args.timeout), upload(&args)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Ok(json!({ "error": format!("{e:#}") })),
        Err(_) => Ok(json!({ "error": "timeout" })),
    }
}

async fn upload(args: &Args) -> Result<Value> {
    let target = Target::parse(&args.url)?;
    let mut stream = BufReader::new(connect(&target).await?);
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        target.path, target.authority, args.body
    );
    stream.get_mut().write_all(head.as_bytes()).await.context("send the head")?;
    let (first, _) = answer_head(&mut stream).await.context("first answer")?;
    if first != 100 {
        return Ok(json!({ "interim": null, "status": first }));
    }
    stream.get_mut().write_all(&pattern(0, args.body)).await.context("send the body")?;
    let (status, length) = answer_head(&mut stream).await.context("final answer")?;
    let mut body = vec![0; length.min(1 << 20)];
    stream.read_exact(&mut body).await.context("answer's body")?;
    Ok(json!({ "interim": first, "status": status, "body": String::from_utf8_lossy(&body) }))
}

/// Reads a status line and headers; the answer's length is zero when it says none.
async fn answer_head(stream: &mut BufReader<TcpStream>) -> Result<(u16, usize)> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let Some(status) = line.split(' ').nth(1).and_then(|s| s.parse().ok()) else { bail!("no status line: {line:?}") };
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Ok((status, length)) };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().context("content-length")?;
        }
    }
}
