//! Clients that leave, half or altogether, and proxies that drain.

use std::sync::atomic::Ordering;

use bowline_proxy::{
    contract::{reason::Reason, resource::Protocol},
    telemetry::metrics::Direction,
};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    application,
    http2::call,
    mesh::{Mesh, PATIENCE, eventually, soon},
};

#[tokio::test]
async fn a_client_that_ended_its_side_gets_its_answer() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    mesh.policy(false);
    let mut begun = 0;
    let large = format!("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n{}", "x".repeat(3_000_000));
    for to in [mesh.client.handle.outbound, mesh.server.handle.plain] {
        for (request, expected) in [
            ("GET /slow HTTP/1.0\r\n\r\n", "slow"),
            ("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", "slow"),
            ("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "slow"),
            ("POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "5 0"),
            (&large, "3000000 0"),
        ] {
            let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            begun += 1;
            eventually("begun", || app.begun.load(Ordering::SeqCst) == begun).await;
            app.release.add_permits(usize::from(expected == "slow"));
            let mut answer = String::new();
            soon("answer", stream.read_to_string(&mut answer)).await.unwrap();
            assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 OK"), "{expected}: {answer}");
            assert!(answer.ends_with(expected), "{expected}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_is_cancelled_and_counted() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    // By a reset, and by an end in the middle of its body.
    for (n, request) in
        ["GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe"]
            .into_iter()
            .enumerate()
    {
        let mut stream = mesh.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        eventually("begun", || app.begun.load(Ordering::SeqCst) == n + 1).await;
        if n == 0 {
            stream.set_zero_linger().unwrap();
        }
        drop(stream);
        let counted = format!("status_class=\"none\"}} {}\n", n + 1);
        eventually(&counted, || mesh.server.handle.metrics().encode().contains(&counted)).await;
    }
    assert!(mesh.metrics().contains("status_class=\"none\"} 1\n"), "{}", mesh.metrics());
    assert_eq!(mesh.client.handle.metrics().refused_count(Direction::Outbound, Reason::BadRequest), 1);
}

#[tokio::test]
async fn a_drain_lets_calls_of_http2_finish_and_takes_no_more() {
    let app = application::http2(3).await;
    let mesh = Mesh::new(app.address, Protocol::Grpc);
    let (send, connection) = h2::client::handshake(mesh.connect().await).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut send: h2::client::SendRequest<Bytes> = soon("ready", send.ready()).await.unwrap();
    let (response, mut up) = send.send_request(call(), false).unwrap();
    let mut down = soon("head", response).await.unwrap().into_body();
    let Mesh { client, server, .. } = mesh;
    let client = tokio::spawn(client.handle.drain(PATIENCE));
    let server = tokio::spawn(server.handle.drain(PATIENCE));
    // The codec refuses new requests once it has read GOAWAY.
    soon("told to go", async {
        while let Ok((response, _)) = send.send_request(call(), true) {
            let _ = response.await;
        }
    })
    .await;
    up.send_data(Bytes::from_static(b"still"), false).unwrap();
    assert_eq!(soon("echo", down.data()).await.unwrap().unwrap(), "still");
    assert!(!client.is_finished() && !server.is_finished());
    up.send_data(Bytes::new(), true).unwrap();
    assert!(soon("end", down.data()).await.is_none());
    assert_eq!(soon("trailers", down.trailers()).await.unwrap().unwrap()["grpc-status"], "0");
    drop((send, up, down));
    assert!(soon("client drained", client).await.unwrap() && soon("server drained", server).await.unwrap());
    soon("closed", connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_before_its_upgrade_is_answered_is_counted() {
    let address = application::raw(2, |mut stream| async move {
        let _ = application::read_head(&mut stream).await;
        // Says nothing until it is told that nobody listens.
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Http1);
    let mut stream = mesh.connect().await;
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    eventually("at the application", || mesh.server.handle.open() == 1).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    eventually("counted", || mesh.metrics().contains("status_class=\"none\"} 1\n")).await;
}
