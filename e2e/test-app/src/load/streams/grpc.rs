//! One gRPC call of the kind `Chat`, held: a numbered message goes out, comes back, and the next one follows.

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::stream;
use tokio::{sync::mpsc, time::timeout};
use tonic::transport::Endpoint;

use crate::{
    load::held::{With, pace},
    proto::test::{Message, echo_client::EchoClient},
    target::Target,
};

/// Holds one call and checks that every message comes back.
pub(in crate::load) async fn hold(target: Target, with: With) {
    if let Err(e) = chat(&target, &with).await {
        with.report.stream_lost(&format!("grpc: {e:#}"));
    }
}

async fn chat(target: &Target, With { report, stop, silence }: &With) -> Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{}", target.authority))?;
    let channel = endpoint.connect().await.context("connect")?;
    // One message is on its way at a time.
    let (outgoing, messages) = mpsc::channel::<Message>(1);
    let messages = stream::unfold(messages, |mut from| async { Some((from.recv().await?, from)) });
    let call = EchoClient::new(channel).chat(messages).await;
    let mut answers = call.map_err(|status| failed(&status)).context("call")?.into_inner();
    let (mut sequence, mut pause) = (0u64, pace());
    loop {
        pause.tick().await;
        let message = Message { sequence, ..Message::default() };
        outgoing.send(message).await.map_err(|_| anyhow::anyhow!("ended while sending"))?;
        let answer = timeout(*silence, answers.message()).await.context("silent")?;
        let Some(answer) = answer.map_err(|status| failed(&status))? else { bail!("ended by the server") };
        ensure!(answer.sequence == sequence, "message {} instead of {sequence}", answer.sequence);
        if sequence == 0 {
            report.stream_held();
        }
        sequence += 1;
        report.event();
        if *stop.borrow() {
            return Ok(());
        }
    }
}

/// A status in short: its own text holds every header.
fn failed(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{:?} {}", status.code(), status.message())
}
