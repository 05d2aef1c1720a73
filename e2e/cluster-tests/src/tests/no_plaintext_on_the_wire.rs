//! An eavesdropper on every node's network sees nothing of what members say to each other, whatever the protocol.
//!
//! Seen to fail: the same texts between two pods outside the mesh are seen by the same capture, so it looks in the right place.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};

use crate::context::{Context, Figures};
use crate::meshed::caller::echoed;
use crate::meshed::capture::Capture;
use crate::meshed::{self, App, Caller, MESH, app};

/// Ways of saying something.
const PROTOCOLS: [&str; 5] = ["http1", "http2", "grpc", "websocket", "tcp"];

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    if cx.env().kubeconfig.is_some() {
        bail!("packets can be captured only on the throw-away cluster: unset KUBECONFIG");
    }
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-wire", Some(MESH)).await?;
    let outside = cx.temp_ns("e2e-wire-outside", None).await?;
    app::deploy(cx, &ns, &[App::new("server").replicas(2), App::new("client")]).await?;
    app::deploy(cx, &outside, &[App::new("server").replicas(2), App::new("client")]).await?;
    let client = Caller::of(cx, &ns, "client").await?;
    let outsider = Caller::of(cx, &outside, "client").await?;

    let prefix = prefix()?;
    let (secret, open) = (format!("{prefix}-secret"), format!("{prefix}-open"));
    let texts = PROTOCOLS.iter().flat_map(|p| [marker(&secret, p), marker(&open, p)]).collect::<Vec<_>>();
    let capture = Capture::start(cx.env(), &prefix, &texts)?;
    let spoken = say(&client, &secret).await.context("in the mesh")?;
    say(&outsider, &open).await.context("outside")?;
    let seen = capture.stop()?;

    let hits = |word: &str, protocol: &str| seen.hits.get(&marker(word, protocol)).copied().unwrap_or(0);
    let (mut heard, mut leaked) = (0, 0);
    for protocol in PROTOCOLS {
        // Sent or sent back at least twice; on its way each crosses several interfaces.
        let (open, secret) = (hits(&open, protocol), hits(&secret, protocol));
        ensure!(open >= 2, "only {open} packets of {protocol} in the open were seen: the capture is deaf ({seen:?})");
        ensure!(secret == 0, "{secret} packets with plaintext of the application were seen, of {protocol}");
        heard += open;
        leaked += secret;
    }
    let restarts = meshed::no_restarts(cx, &ns, "").await?;
    Ok(Figures::new()
        .with("sent", spoken)
        .with("failed", 0)
        .with("container_restarts", restarts)
        .with("packets", seen.packets)
        .with("plaintext_packets", leaked)
        .with("control_packets", heard))
}

/// How every text begins; it occurs nowhere else.
fn prefix() -> Result<String> {
    Ok(format!("bowline-marker-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos()))
}

/// What is said by a protocol.
fn marker(word: &str, protocol: &str) -> String {
    format!("{word}-{protocol}")
}

/// Says the text in every protocol, and returns how often.
async fn say(client: &Caller<'_>, word: &str) -> Result<u64> {
    let text = marker(word, "http1");
    let header = format!("x-marker: {text}");
    for url in ["http://server/", "http://server:8088/"] {
        let report = client.call(&["get", url, "-H", &header]).await?;
        ensure!(report["body"].as_str().is_some_and(|body| body.contains(&text)), "no echo: {report}");
    }
    let text = marker(word, "http2");
    // Not in a header of HTTP/2, whose compression hides it even from who reads along.
    for url in ["http://server:81/", "http://server:8088/"] {
        let saw = echoed(&client.call(&["get", url, "--h2", "--text", &text]).await?)?;
        ensure!(saw["body"] == *text && saw["version"] == "HTTP/2.0", "no echo: {saw}");
    }
    let text = marker(word, "grpc");
    for target in ["server:9090", "server:9091"] {
        let call = client.call(&["grpc", target, "unary", "--text", &text]).await?;
        ensure!(call["code"] == 0 && call["text"] == *text, "no echo: {call}");
    }
    // The client's messages are masked (RFC 6455, 5.3), what comes back is not.
    let text = marker(word, "websocket");
    let chat = client.call(&["ws", "http://server/ws", "--text", &text, "--messages", "2"]).await?;
    ensure!(chat["echoed"] == 2, "no echo: {chat}");
    let text = marker(word, "tcp");
    for (address, banner) in [("server:9000", false), ("server:5555", true)] {
        let args = ["tcp", address, "--send", &text, "--half-close"];
        client.call(&[&args[..], if banner { &["--banner"] } else { &[] }].concat()).await?;
    }
    Ok(9)
}
