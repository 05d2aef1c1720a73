use std::{sync::atomic::Ordering, time::Duration};

use bowline_proxy::{
    contract::{reason::Reason, resource::Protocol},
    telemetry::metrics::Direction,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    application::{self, say},
    mesh::{Mesh, PATIENCE, eventually, soon},
};

#[tokio::test]
async fn more_connections_than_allowed_are_refused_and_counted() {
    let app = application::http1(2).await;
    let mesh = Mesh::with(app.address, Protocol::Http1, |client, _| client.max_connections = 2);
    let _held = [mesh.connect().await, mesh.connect().await];
    eventually("two are in", || mesh.client.handle.open() == 2).await;
    // The reset may come before connecting has been reported, or after.
    let ended = match TcpStream::connect(mesh.client.handle.outbound).await {
        Ok(mut third) => soon("refused", third.read(&mut [0; 1])).await.map(|_| ()),
        Err(e) => Err(e),
    };
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(mesh.client.handle.metrics().refused_count(Direction::Outbound, Reason::Overloaded), 1);
}

#[tokio::test]
async fn requests_at_the_application_are_bounded_as_connections_are() {
    let app = application::http1(2).await;
    let mesh = Mesh::with(app.address, Protocol::Http1, |_, server| server.max_connections = 2);
    let slow = "GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let held = [tokio::spawn(say(mesh.connect().await, slow)), tokio::spawn(say(mesh.connect().await, slow))];
    eventually("two are in", || app.begun.load(Ordering::SeqCst) == 2).await;
    let answer = soon("refused", say(mesh.connect().await, slow)).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("bowline-reason: overloaded"), "{answer}");
    assert_eq!(mesh.server.handle.metrics().refused_count(Direction::Inbound, Reason::Overloaded), 1);
    app.release.add_permits(2);
    for answer in held {
        assert!(soon("answer", answer).await.unwrap().ends_with("slow"));
    }
}

#[tokio::test]
async fn strangers_who_fill_a_door_leave_the_others_open() {
    let app = application::http1(2).await;
    let mesh = Mesh::with(app.address, Protocol::Http1, |client, _| client.max_connections = 40);
    let mut silent = Vec::new();
    for _ in 0..60 {
        // The reset of one that is too many may come before connecting has been reported.
        silent.extend(TcpStream::connect(mesh.client.handle.mesh).await);
    }
    let metrics = mesh.client.handle.metrics();
    eventually("full", || metrics.refused_count(Direction::Inbound, Reason::Overloaded) > 0).await;
    let answer = soon("answer", say(mesh.connect().await, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    assert!(answer.await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn handshakes_that_are_never_finished_make_room_for_others() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(mesh.server.handle.mesh).await.unwrap());
    }
    let metrics = mesh.server.handle.metrics();
    eventually("room", || metrics.refused_count(Direction::Inbound, Reason::Overloaded) == 300 - 256).await;
    let answer = soon("answer", say(mesh.connect().await, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    assert!(answer.await.starts_with("HTTP/1.1 200"));
    // It was the oldest that went.
    assert!(soon("end", silent[0].read(&mut [0; 1])).await.is_ok_and(|n| n == 0));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(300 << 10));
    let mut stream = mesh.connect().await;
    // The proxy may close before all of it is sent.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = soon("answer", stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    let told = answer.starts_with("HTTP/1.1 431") && answer.contains("bowline-reason: bad-request\r\n");
    assert!(answer.is_empty() || told, "{answer}");
    assert_eq!(app.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn draining_finishes_what_is_in_flight_and_takes_nothing_new() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let outbound = mesh.client.handle.outbound;
    let slow = tokio::spawn(say(mesh.connect().await, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"));
    eventually("in flight", || app.begun.load(Ordering::SeqCst) == 1).await;
    let Mesh { client, server, .. } = mesh;
    let server = tokio::spawn(server.handle.drain(PATIENCE));
    let client = tokio::spawn(client.handle.drain(PATIENCE));
    soon("closed", async {
        while tokio::net::TcpStream::connect(outbound).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    app.release.add_permits(1);
    let answer = soon("answer", slow).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("slow"), "{answer}");
    assert!(soon("client drained", client).await.unwrap());
    assert!(soon("server drained", server).await.unwrap());
}

#[tokio::test]
async fn the_deadline_of_a_drain_cuts_off() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let mut stream = mesh.connect().await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    eventually("in flight", || app.begun.load(Ordering::SeqCst) == 1).await;
    let finished = soon("drain", mesh.client.handle.drain(Duration::from_millis(50))).await;
    assert!(!finished);
    let mut rest = Vec::new();
    let _ = soon("end", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_tunnel_is_waited_for_too() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let mut stream = mesh.connect().await;
    let head =
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(soon("head", stream.read_u8()).await.unwrap());
    }
    let outbound = mesh.client.handle.outbound;
    let Mesh { client, server, .. } = mesh;
    let drained = tokio::spawn(client.handle.drain(PATIENCE));
    soon("closed", async {
        while tokio::net::TcpStream::connect(outbound).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    stream.write_all(b"echo").await.unwrap();
    soon("echo", stream.read_exact(&mut [0; 4])).await.unwrap();
    assert!(!drained.is_finished());
    drop(stream);
    assert!(soon("drained", drained).await.unwrap());
    drop(server);
}

#[tokio::test]
async fn a_connection_that_was_upgraded_keeps_its_place() {
    let app = application::http1(2).await;
    let mesh = Mesh::with(app.address, Protocol::Http1, |client, server| {
        client.max_connections = 2;
        server.max_connections = 2;
    });
    mesh.policy(false);
    let head =
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    for (to, handle, direction) in [
        (mesh.server.handle.plain, &mesh.server.handle, Direction::Inbound),
        (mesh.client.handle.outbound, &mesh.client.handle, Direction::Outbound),
    ] {
        let mut sockets = Vec::new();
        for n in 1..=2_u8 {
            let mut socket = TcpStream::connect(to).await.unwrap();
            socket.write_all(head.as_bytes()).await.unwrap();
            let answer = soon("head", application::read_head(&mut socket)).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
            socket.write_all(&[n]).await.unwrap();
            // By now it is one of HTTP no more.
            assert_eq!(soon("echo", socket.read_u8()).await.unwrap(), n);
            sockets.push(socket);
        }
        let refused = || handle.metrics().refused_count(direction, Reason::Overloaded);
        let ended = match TcpStream::connect(to).await {
            Ok(mut third) => soon("refused", third.read(&mut [0; 1])).await.map(|_| ()),
            Err(e) => Err(e),
        };
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(refused(), 1);
        drop(sockets);
        let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        // A reset means that the end of the others has not been noticed yet.
        let again = async {
            loop {
                let Ok(mut stream) = TcpStream::connect(to).await else { continue };
                let mut answer = Vec::new();
                let _ = stream.write_all(get.as_bytes()).await;
                if stream.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200") {
                    return;
                }
            }
        };
        soon("their places are given back", again).await;
    }
}
