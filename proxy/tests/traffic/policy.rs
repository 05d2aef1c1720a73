use std::sync::atomic::Ordering;

use bowline_proxy::{bootstrap::Reason, control::apply::Protocol, metrics::Direction};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    application::{self, say},
    mesh::{Ca, Mesh, bundle, id, soon},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn strict_refuses_plaintext_and_says_why() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    let plain = mesh.server.handle.plain;
    // Strict is also what holds before any policy is known.
    let answer = soon("answer", say(TcpStream::connect(plain).await.unwrap(), GET)).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("bowline-reason: mtls-required"), "{answer}");
    let mut stream = TcpStream::connect(plain).await.unwrap();
    stream.write_all(b"\x00\x01binary").await.unwrap();
    let ended = soon("reset", stream.read(&mut [0; 8])).await;
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(app.accepted.load(Ordering::SeqCst), 0);
    assert_eq!(mesh.server.handle.metrics().refused_count(Direction::Inbound, Reason::MtlsRequired), 2);
}

#[tokio::test]
async fn permissive_admits_both() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    mesh.policy(false);
    let plain = TcpStream::connect(mesh.server.handle.plain).await.unwrap();
    for stream in [plain, mesh.connect().await] {
        let answer = soon("answer", say(stream, GET)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let text = mesh.server.handle.metrics().encode();
    assert!(text.contains("peer=\"plaintext\",status_class=\"2xx\"} 1\n"), "{text}");
}

#[tokio::test]
async fn permissive_admits_opaque_bytes_and_upgrades_in_plain() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    mesh.policy(false);
    let mut stream = TcpStream::connect(mesh.server.handle.plain).await.unwrap();
    let head =
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(soon("head", stream.read_u8()).await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101") && answer.contains("upgrade: websocket"), "{answer}");
    stream.write_all(b"abc").await.unwrap();
    let mut echo = [0; 3];
    soon("echo", stream.read_exact(&mut echo)).await.unwrap();
    assert_eq!(&echo, b"abc");
}

#[tokio::test]
async fn another_identity_than_expected_gets_not_a_byte() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    mesh.serve(Protocol::Http1, vec![mesh.endpoint(app.address, "somebody-else")]);
    let answer = soon("answer", say(mesh.connect().await, GET)).await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("bowline-reason: wrong-identity"), "{answer}");
    mesh.serve(Protocol::Tcp, vec![mesh.endpoint(app.address, "somebody-else")]);
    // The reset may come before connecting has been reported, or after.
    let ended = match tokio::net::TcpStream::connect(mesh.client.handle.outbound).await {
        Ok(mut stream) => soon("reset", stream.read(&mut [0; 8])).await.map(|_| ()),
        Err(e) => Err(e),
    };
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(app.accepted.load(Ordering::SeqCst), 0);
    assert_eq!(mesh.client.handle.metrics().refused_count(Direction::Outbound, Reason::WrongIdentity), 2);
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    // It trusts the server, but the server has never heard of its authority.
    let foreign = Ca::new("foreign");
    let both = bundle(1, &[&mesh.ca, &foreign]);
    mesh.client.store.publish(foreign.leaf(&id("client"), &both));
    let answer = soon("answer", say(mesh.connect().await, GET)).await;
    assert!(answer.starts_with("HTTP/1.1 50") && answer.contains("bowline-reason: "), "{answer}");
    assert_eq!(app.accepted.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_empty_bundle_trusts_nobody() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    mesh.client.store.publish(mesh.ca.leaf(&id("client"), &bundle(2, &[])));
    let answer = soon("answer", say(mesh.connect().await, GET)).await;
    assert!(answer.contains("bowline-reason: tls-failed"), "{answer}");
    assert_eq!(app.accepted.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_unmeshed_endpoint_is_spoken_to_in_plain() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    let mut endpoint = mesh.endpoint(app.address, "server");
    endpoint.identity = None;
    mesh.serve(Protocol::Detect, vec![endpoint]);
    let answer = soon("answer", say(mesh.connect().await, GET)).await;
    assert!(answer.ends_with("GET / HTTP/1.1\nhost: a\n"), "{answer}");
    assert_eq!(mesh.server.handle.open(), 0);
}
