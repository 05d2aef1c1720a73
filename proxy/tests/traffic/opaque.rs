use std::{net::SocketAddr, time::Duration};

use bowline_proxy::{contract::resource::Protocol, data_path::start::Destination};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    application::{self, say},
    mesh::{Mesh, eventually, soon},
};

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// Reads all, then says how much it was: works only if the client's end of stream arrives alone.
async fn count(mut stream: TcpStream) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    stream.write_all(all.len().to_string().as_bytes()).await.unwrap();
}

/// Says something and closes its side, then waits for the client's last word.
async fn greet(mut stream: TcpStream) {
    stream.write_all(b"220 hello\r\n").await.unwrap();
    let mut line = [0; 6];
    if stream.read_exact(&mut line).await.is_ok() {
        stream.write_all(b"221 bye\r\n").await.unwrap();
    }
}

#[tokio::test]
async fn bytes_pass_and_either_side_may_end_first() {
    for protocol in [Protocol::Tcp, Protocol::Detect] {
        let mesh = Mesh::new(application::raw(4, count).await, protocol);
        let mut stream = mesh.connect().await;
        stream.write_all(&vec![0; 3_000_000]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        soon("answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "3000000");
    }
}

#[tokio::test]
async fn much_is_echoed_unchanged() {
    let mesh = Mesh::new(application::raw(4, echo).await, Protocol::Tcp);
    let (mut read, mut write) = mesh.connect().await.into_split();
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&copy).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut seen = Vec::new();
    soon("echo", read.read_to_end(&mut seen)).await.unwrap();
    writing.await.unwrap();
    assert!(seen == sent);
    let text = mesh.metrics();
    for line in [
        "bowline_tcp_connections_total{direction=\"outbound\",service=\"shop/web\",peer=\"spiffe://mesh.test/ns/shop/sa/server\",tls=\"true\"} 1\n",
        "bowline_tcp_bytes_total{direction=\"outbound\",flow=\"received\"} 8000000\n",
        "bowline_tcp_bytes_total{direction=\"outbound\",flow=\"sent\"} 8000000\n",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    eventually("closed", || mesh.metrics().contains("bowline_tcp_open_connections{direction=\"outbound\"} 0\n")).await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_kept_waiting() {
    let mesh = Mesh::new(application::raw(4, greet).await, Protocol::Detect);
    for _ in 0..3 {
        let mut stream = mesh.connect().await;
        let mut hello = [0; 11];
        soon("greeting", stream.read_exact(&mut hello)).await.unwrap();
        stream.write_all(b"QUIT\r\n").await.unwrap();
        let mut rest = String::new();
        soon("rest", stream.read_to_string(&mut rest)).await.unwrap();
        assert_eq!(rest, "221 bye\r\n");
    }
    let sent = "bowline_tcp_bytes_total{direction=\"outbound\",flow=\"sent\"} 60\n";
    eventually("what was said first is counted", || mesh.metrics().contains(sent)).await;
}

#[tokio::test]
async fn a_client_of_http_that_was_silent_at_first_is_still_served_as_one() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    let stream = mesh.connect().await;
    // The early connection reaches the application; only then does the client speak.
    eventually("early connection", || app.accepted.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    let answer = soon("answer", say(stream, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(mesh.metrics().contains("status_class=\"2xx\"} 1\n"), "{}", mesh.metrics());
}

#[tokio::test]
async fn a_client_that_begins_like_http_and_waits_for_an_answer_gets_it() {
    let mesh = Mesh::new(application::raw(4, echo).await, Protocol::Detect);
    for said in [&b"HELLO"[..], b"GET key", b"PRI * HT"] {
        let mut stream = mesh.connect().await;
        stream.write_all(said).await.unwrap();
        let mut answer = vec![0; said.len()];
        soon("echo", stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, said);
    }
}

/// Whether each established connection of `/proc/net/tcp` to `to` has a timer that asks after the peer (`tr` is 2).
fn kept_alive(to: SocketAddr) -> Vec<bool> {
    let SocketAddr::V4(to) = to else { panic!("{to} is not IPv4") };
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(to.ip().octets()), to.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let rows = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    rows.filter(|r| r[2] == remote && r[3] == "01").map(|r| r[5].starts_with("02:")).collect()
}

#[tokio::test]
async fn every_connection_is_kept_alive() {
    let address = application::raw(4, echo).await;
    let through = Mesh::new(address, Protocol::Tcp);
    let outside = Mesh::with(address, Protocol::Tcp, |client, _| client.outbound_to = Destination::Fixed(address));
    let mut streams = Vec::new();
    for mesh in [&through, &outside] {
        let mut stream = mesh.connect().await;
        stream.write_all(b"x").await.unwrap();
        soon("echo", stream.read_exact(&mut [0; 1])).await.unwrap();
        streams.push(stream);
    }
    // To the application, to outside the mesh, and between the proxies. A timer for an acknowledgement goes first and passes.
    eventually("kept alive", || kept_alive(address) == [true; 2]).await;
    eventually("kept alive", || kept_alive(through.server.handle.mesh) == [true]).await;
}

/// An address that does not answer: its queue is full.
async fn full() -> (socket2::Socket, SocketAddr, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 4], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queue = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queue.push(stream);
    }
    (socket, address, queue)
}

#[tokio::test]
async fn nothing_is_dialled_for_a_client_that_has_gone() {
    let (_socket, address, _queue) = full().await;
    let mesh = Mesh::with(address, Protocol::Tcp, |client, _| client.outbound_to = Destination::Fixed(address));
    for reset in [true, false] {
        let mut stream = mesh.connect().await;
        stream.write_all(b"hello").await.unwrap();
        eventually("dialling", || mesh.client.handle.open() == 1).await;
        if reset {
            stream.set_zero_linger().unwrap();
        }
        drop(stream);
        eventually("given up", || mesh.client.handle.open() == 0).await;
    }
}

#[tokio::test]
async fn a_connection_that_nobody_redirected_leads_nowhere() {
    let address = application::raw(4, echo).await;
    let mesh = Mesh::with(address, Protocol::Tcp, |client, _| client.outbound_to = Destination::Redirected);
    let mut stream = mesh.connect().await;
    stream.write_all(b"x").await.unwrap();
    assert!(!matches!(soon("end", stream.read(&mut [0; 1])).await, Ok(1..)));
    eventually("closed", || mesh.client.handle.open() == 0).await;
}

#[tokio::test]
async fn a_reset_is_told_on() {
    let address = application::raw(4, |mut stream| async move {
        let _ = stream.read(&mut [0; 4]).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Tcp);
    let mut stream = mesh.connect().await;
    stream.write_all(b"ping").await.unwrap();
    let ended = soon("reset", stream.read(&mut [0; 4])).await;
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_is_outside_is_reached_unchanged() {
    // Loopback is never asked for: outside. Bytes that look like HTTP are not touched there either.
    let address = application::raw(4, echo).await;
    let mesh = Mesh::with(address, Protocol::Detect, |client, _| client.outbound_to = Destination::Fixed(address));
    let mut stream = mesh.connect().await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\nWeird:1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echo = String::new();
    soon("echo", stream.read_to_string(&mut echo)).await.unwrap();
    assert_eq!(echo, request);
}

#[tokio::test]
async fn tunnels_share_connections() {
    let mesh = Mesh::new(application::raw(4, echo).await, Protocol::Tcp);
    let mut streams = Vec::new();
    for _ in 0..30 {
        let mut stream = mesh.connect().await;
        stream.write_all(b"x").await.unwrap();
        soon("echo", stream.read_exact(&mut [0; 1])).await.unwrap();
        streams.push(stream);
    }
    assert!(mesh.server.handle.open() <= 4, "{} connections for 30 tunnels", mesh.server.handle.open());
}
