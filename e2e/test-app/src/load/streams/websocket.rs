//! One WebSocket, held: a numbered message goes out, comes back, and the next one follows.

use anyhow::{Context as _, Result, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    load::held::{With, pace},
    target::{Target, connect},
};

/// Holds one WebSocket and checks that every message comes back.
pub(in crate::load) async fn hold(target: Target, with: With) {
    if let Err(e) = converse(&target, &with).await {
        with.report.stream_lost(&format!("websocket: {e:#}"));
    }
}

async fn converse(target: &Target, With { report, stop, silence }: &With) -> Result<()> {
    let url = format!("ws://{}{}", target.authority, target.path);
    let (mut socket, _) = tokio_tungstenite::client_async(url, connect(target).await?).await.context("handshake")?;
    let (mut number, mut pause) = (0u64, pace());
    loop {
        pause.tick().await;
        socket.send(Message::text(number.to_string())).await.context("send")?;
        let back = timeout(*silence, socket.next()).await.context("silent")?.context("ended by the server")??;
        ensure!(back.to_text()? == number.to_string(), "{back:?} instead of {number}");
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
