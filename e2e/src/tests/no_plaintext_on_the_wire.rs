//! An eavesdropper on every node's network sees nothing of what members say to each other, whatever the protocol.
//!
//! Seen to fail: the same texts between two pods outside the mesh are seen by the same capture, so it looks in the right place.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};

use crate::context::{Context, Figures};
use crate::meshed::capture::Capture;
use crate::meshed::{self, App, Caller, MESH, app};

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

    let secret = marker("secret")?;
    let open = marker("open")?;
    let capture = Capture::start(cx.env(), &[&secret, &open])?;
    let spoken = say(&client, &secret).await.context("in the mesh")?;
    say(&outsider, &open).await.context("outside")?;
    let seen = capture.stop()?;

    let heard = seen.hits.get(&open).copied().unwrap_or(0);
    // Each is sent, and echoed, at least once; on its way it crosses several interfaces.
    ensure!(heard >= 2 * spoken, "only {heard} packets in the open were seen: the capture is deaf ({seen:?})");
    let leaked = seen.hits.get(&secret).copied().unwrap_or(0);
    ensure!(leaked == 0, "{leaked} packets with plaintext of the application were seen");
    Ok(Figures::new().with("packets", seen.packets).with("plaintext_packets", leaked).with("control_packets", heard))
}

/// A text that occurs nowhere else.
fn marker(word: &str) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    Ok(format!("bowline-marker-{word}-{now}"))
}

/// Says the text in several protocols, and returns how often.
async fn say(client: &Caller<'_>, text: &str) -> Result<u64> {
    let header = format!("x-marker: {text}");
    // Not in a header of HTTP/2, whose compression hides it even from who reads along.
    for url in ["http://server/", "http://server:8088/"] {
        let report = client.call(&["get", url, "-H", &header]).await?;
        ensure!(report["body"].as_str().is_some_and(|body| body.contains(text)), "no echo: {report}");
    }
    for (address, banner) in [("server:9000", false), ("server:5555", true)] {
        let args = ["tcp", address, "--send", text, "--half-close"];
        client.call(&[&args[..], if banner { &["--banner"] } else { &[] }].concat()).await?;
    }
    Ok(4)
}
