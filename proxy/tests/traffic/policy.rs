use std::sync::atomic::Ordering;

use bowline_proxy::{
    contract::{
        reason::Reason,
        resource::{InboundPolicy, Protocol},
    },
    telemetry::metrics::Direction,
};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    application::{self, read_head, say},
    http2::call,
    mesh::{Ca, Mesh, bundle, eventually, id, soon},
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

#[tokio::test]
async fn strict_reaches_connections_of_http1_that_are_open() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    mesh.policy(false);
    let plain = || TcpStream::connect(mesh.server.handle.plain);
    let mut kept = plain().await.unwrap();
    kept.write_all(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(soon("answer", read_head(&mut kept)).await.unwrap().starts_with("HTTP/1.1 204"));
    let mut busy = plain().await.unwrap();
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    eventually("in flight", || app.begun.load(Ordering::SeqCst) == 2).await;
    mesh.policy(true);
    // It may be closed by now.
    let _ = kept.write_all(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = soon("end", kept.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.is_empty() || answer.contains("bowline-reason: mtls-required"), "{answer}");
    app.release.add_permits(1);
    let mut answer = String::new();
    soon("answer", busy.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("slow"), "what is in flight finishes: {answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert_eq!(app.begun.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn strict_reaches_connections_of_http2_that_are_open() {
    let app = application::http2(3).await;
    let mesh = Mesh::new(app.address, Protocol::Grpc);
    mesh.policy(false);
    let stream = TcpStream::connect(mesh.server.handle.plain).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut send: h2::client::SendRequest<Bytes> = soon("ready", send.ready()).await.unwrap();
    let (response, mut up) = send.send_request(call(), false).unwrap();
    let mut down = soon("head", response).await.unwrap().into_body();
    mesh.policy(true);
    // The codec refuses new requests once it has read GOAWAY.
    soon("told to go", async {
        while let Ok((response, _)) = send.send_request(call(), true) {
            if let Ok(response) = response.await {
                assert_eq!(response.headers()["bowline-reason"], "mtls-required");
            }
        }
    })
    .await;
    up.send_data(Bytes::from_static(b"still"), true).unwrap();
    assert_eq!(soon("echo", down.data()).await.unwrap().unwrap(), "still");
    assert!(soon("end", down.data()).await.is_none());
    assert_eq!(soon("trailers", down.trailers()).await.unwrap().unwrap()["grpc-status"], "0");
    assert_eq!(app.begun.load(Ordering::SeqCst), 1);
    drop((send, up, down));
    soon("closed", connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_connected_before_strict_and_speaks_after_it_is_told_why_not() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let policy = |strict, protocol| {
        let ports = vec![(app.address.port(), protocol)];
        mesh.server.state.set_inbound_policy(InboundPolicy { strict, ports }.into());
    };
    policy(false, Protocol::Http1);
    let one = TcpStream::connect(mesh.server.handle.plain).await.unwrap();
    let two = TcpStream::connect(mesh.server.handle.plain).await.unwrap();
    eventually("accepted", || mesh.server.handle.open() == 2).await;
    policy(true, Protocol::Http1);
    // With a head that does not ask for the end.
    let answer = soon("answer", say(one, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("bowline-reason: mtls-required"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    let (send, connection) = h2::client::handshake(two).await.unwrap();
    tokio::spawn(connection);
    let mut send: h2::client::SendRequest<Bytes> = soon("ready", send.ready()).await.unwrap();
    let (response, _) = send.send_request(call(), true).unwrap();
    let response = soon("head", response).await.unwrap();
    let headers = response.headers();
    assert_eq!(
        (&headers["grpc-status"], &headers["bowline-reason"]),
        (&"7".parse().unwrap(), &"mtls-required".parse().unwrap())
    );
    assert_eq!(app.accepted.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn opaque_bytes_run_on_under_strict() {
    let address = application::raw(4, |mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Tcp);
    mesh.policy(false);
    let mut stream = TcpStream::connect(mesh.server.handle.plain).await.unwrap();
    for byte in [b'\0', 1] {
        stream.write_all(&[byte]).await.unwrap();
        assert_eq!(soon("echo", stream.read_u8()).await.unwrap(), byte);
        mesh.policy(true);
    }
    let mut late = TcpStream::connect(mesh.server.handle.plain).await.unwrap();
    late.write_all(b"\0").await.unwrap();
    assert!(soon("refused", late.read_u8()).await.is_err());
}
